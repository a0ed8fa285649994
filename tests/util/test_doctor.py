"""`sff-teach doctor`."""

from sff_teach.util import doctor


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package-here"))
    assert "no-such-package-here not installed" in doctor.report()
