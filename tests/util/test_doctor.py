"""`sff-teach doctor`."""

import torch

import sff_teach
from sff_teach.util import doctor


def test_the_report_names_versions_and_devices():
    report = doctor.report()
    assert f"sff_teach {sff_teach.__version__} " in report
    for package in doctor.PACKAGES:
        assert package in report
    assert torch.__version__.split("+")[0] in report
    assert "CUDA" in report and "MPS" in report


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package-here"))
    assert "no-such-package-here not installed" in doctor.report()
