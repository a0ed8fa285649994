"""The gallery shows what the notebooks show."""

from tools import gallery


def test_gallery_is_that_of_the_notebooks():
    text, pictures = gallery.page()
    assert gallery.PAGE.read_text(encoding="utf-8") == text, "run make gallery"
    stored = {path.name: path.read_bytes() for path in gallery.FOLDER.glob("*.png")}
    assert stored == pictures, "run make gallery"
    assert gallery.README.read_text(encoding="utf-8") == gallery.readme(), "run make gallery"


def test_every_picture_has_words():
    for name, number, beginning, title in gallery.PICTURES:
        _, picture, alt, caption = gallery.find_figure(number, beginning)
        assert picture.startswith(b"\x89PNG") and len(alt) > 40 and len(caption) > 30, name
        assert title
