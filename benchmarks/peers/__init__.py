"""The same model behind other servers, written as their own documentation shows."""
