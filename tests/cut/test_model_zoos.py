"""Networks of torchvision, timm and transformers; `localize` compares the blocks with them."""

import pytest

pytest.importorskip("timm")
pytest.importorskip("transformers")

from results.models import models, outcome

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("name", "make", "size"), [pytest.param(*model, id=model[0]) for model in models()]
)
def test_blocks_equal_the_original(name, make, size):
    result, detail = outcome(make, size)
    assert result != "refused", detail
