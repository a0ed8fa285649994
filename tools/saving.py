"""What `make lab` leaves out on saving, so that a notebook that was only read stays as it was."""


def without_version(model: dict, **_) -> None:
    """Take out the reader's version of Python, which JupyterLab adds to every notebook it opens.

    Args:
        model: what Jupyter Server is about to save: a notebook, or another file.
    """
    if model["type"] == "notebook":
        model["content"]["metadata"].get("language_info", {}).pop("version", None)
