"""``docs/metrics.md`` lists the metrics that there are."""

from tests.metrics_page import PAGE, document


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == document(), "run `make docs`"
