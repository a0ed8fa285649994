"""Networks of timm and transformers are cut, or refused with the line that stands in the way."""

import pytest

pytest.importorskip("timm")
pytest.importorskip("transformers")

from results.models import models, outcome

REFUSED = {"transformers ViT": "cannot be cut"}

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("name", "make", "size"), [pytest.param(*model, id=model[0]) for model in models()]
)
def test_blocks_equal_the_original_or_the_model_is_refused(name, make, size):
    result, detail = outcome(make, size)  # localize compares
    if name in REFUSED:
        assert result == "refused" and REFUSED[name] in detail and "line" in detail
    else:
        assert result != "refused", detail
