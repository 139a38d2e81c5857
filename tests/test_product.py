import pytest

from aisle import Category, Product, ProductError, Taxonomy
from aisle.errors import BundleError


def test_a_product_may_be_any_part_of_a_listing() -> None:
    assert Product(title="Robe").is_empty is False
    assert Product(product_id="7").is_empty is False
    assert Product(image=b"\xff\xd8").is_empty is False
    assert Product(title="  ", description="\n").is_empty is True


@pytest.mark.parametrize("product_id", ["{7}", "a}b", "{"])
def test_braces_in_an_id_are_refused(product_id: str) -> None:
    with pytest.raises(ProductError, match="wanted an id without { and }"):
        Product(product_id=product_id)


@pytest.mark.parametrize("product_id", ["", "  "])
def test_an_empty_id_is_refused(product_id: str) -> None:
    with pytest.raises(ProductError, match="product_id: found an empty id, wanted 1 or more characters"):
        Product(product_id=product_id)


def test_a_text_over_its_limit_names_both_lengths() -> None:
    with pytest.raises(ProductError, match="description: found 100,000 characters, wanted at most 20,000"):
        Product(description="x" * 100_000)
    with pytest.raises(ProductError, match="title: found 1,001 characters, wanted at most 1,000"):
        Product(title="x" * 1_001)


def test_a_taxonomy_maps_codes_to_columns_and_back() -> None:
    taxonomy = Taxonomy.from_codes(["50", "10", "10"], {"10": "adult books"})
    assert taxonomy.codes == ("10", "50")
    assert taxonomy.index("50") == 1
    assert taxonomy[0] == Category(code="10", name="adult books")
    assert "7" not in taxonomy
    assert Taxonomy.from_json(taxonomy.to_json()) == taxonomy


def test_a_taxonomy_refuses_a_code_twice() -> None:
    twice = [Category(code="1", name="a"), Category(code="1", name="b")]
    with pytest.raises(BundleError, match=r"found the codes \['1'\] more than once"):
        Taxonomy(twice)


def test_a_taxonomy_of_one_category_is_no_choice() -> None:
    with pytest.raises(BundleError, match="found 1 categories, wanted 2 or more"):
        Taxonomy.from_codes(["1"])
