from __future__ import annotations

from pathlib import Path

import pytest

from aisle.errors import SettingError
from service.settings import Places, Settings, describe


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("AISLE_REDIS_URL", "rediss://me:p%40ss%2F@[::1]:6380/2"),
        ("AISLE_REDIS_URL", "redis+sentinel://:pass@a:1,b:2?service=shop"),
        ("AISLE_DATABASE_URL", "postgresql://aisle:p%40ss@[::1]:5432/aisle"),
        ("AISLE_DATABASE_URL", "postgresql:///aisle?host=/run/postgresql"),
        ("AISLE_DATABASE_URL", "sqlite:////srv/a@b/ledger.db"),
    ],
)
def test_a_whole_url_is_taken_as_it_is_and_not_shown_with_the_settings(name: str, url: str) -> None:
    settings = Settings.from_environment({name: url})
    assert url in (settings.redis_url, settings.database_url)
    assert url not in repr(settings)


def test_defaults_are_what_the_table_says() -> None:
    defaults = {name: default for name, default, _ in describe()}
    assert Settings.from_environment(defaults) == Settings.from_environment({})
    assert Settings.from_environment({}).max_batch == 256


def test_a_variable_is_read() -> None:
    settings = Settings.from_environment({"AISLE_HOME": "/srv/shop", "AISLE_WRITE_BACK": "no"})
    assert settings.home == Path("/srv/shop")
    assert settings.write_back is False


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "AISLE_MAX_BATCH",
            "0",
            "AISLE_MAX_BATCH: found '0', wanted a whole number from 1 to 1,024",
        ),
        (
            "AISLE_WORKERS",
            "many",
            "AISLE_WORKERS: found 'many', wanted a whole number from 1 to 64",
        ),
        ("AISLE_MAX_LATENCY_S", "nan", "AISLE_MAX_LATENCY_S: found 'nan', wanted seconds from 0.05 to 300"),
        ("AISLE_DEVICE", "tpu", "AISLE_DEVICE: found 'tpu', wanted auto or cpu or cuda"),
        ("AISLE_MODEL", "latest", "AISLE_MODEL: found 'latest', wanted champion or name:v"),
        (
            "AISLE_REDIS_URL",
            "localhost:6379",
            "AISLE_REDIS_URL: found 'localhost:6379', wanted a URL",
        ),
        (
            "AISLE_REDIS_URL",
            "rdis://:secret@shop:6379",
            "AISLE_REDIS_URL: found 'rdis://...', wanted a URL",
        ),
        (
            "AISLE_DATABASE_URL",
            "mysql://aisle:secret@shop/aisle",
            "AISLE_DATABASE_URL: found 'mysql://...', wanted postgresql://",
        ),
        ("AISLE_REDIS_URL", "redis://:se/cret@shop", "AISLE_REDIS_URL: found 'redis://...', wanted a URL"),
        ("AISLE_REDIS_URL", "redis://:se@cret@shop", "AISLE_REDIS_URL: found 'redis://...', wanted a URL"),
        ("AISLE_REDIS_URL", "redis://:se[cret@shop:x", "AISLE_REDIS_URL: found 'redis://...', wanted a URL"),
        (
            "AISLE_DATABASE_URL",
            "postgresql://aisle:se@cret@shop/aisle",
            "AISLE_DATABASE_URL: found 'postgresql://...', wanted postgresql://",
        ),
        (
            "AISLE_DATABASE_URL",
            "postgresql://aisle:se/cret@shop:5432/aisle",
            "AISLE_DATABASE_URL: found 'postgresql://...', wanted postgresql://",
        ),
        ("AISLE_AUTH", "on", "AISLE_AUTH: found 'on', wanted off or keys"),
        ("AISLE_LEDGER_EMBEDDINGS", "2", "AISLE_LEDGER_EMBEDDINGS: found '2', wanted a share from 0 to 1"),
        ("AISLE_WRITE_BACK", "maybe", "AISLE_WRITE_BACK: found 'maybe', wanted 1 or 0"),
        ("AISLE_HOME", " ", "AISLE_HOME: found ' ', wanted a folder"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_what_is_wanted(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_environment({name: value})
    assert str(caught.value).startswith(message)


def test_bentomls_own_variables_say_where_its_files_lie() -> None:
    given = {"BENTOML_HOME": "/srv/shop/bentoml", "PROMETHEUS_MULTIPROC_DIR": "/srv/shop/bentoml/metrics"}
    places = Places.from_environment(given)
    assert (places.bentoml_home, places.metrics) == (
        Path("/srv/shop/bentoml"),
        Path("/srv/shop/bentoml/metrics"),
    )
    assert Places.from_environment({}) == Places(bentoml_home=Path.home() / "bentoml", metrics=None)
