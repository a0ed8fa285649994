"""A hook of `make lab`, so that saving a notebook that was only read does not change its file."""


def without_version(model: dict, **_) -> None:
    """Remove the version of Python, which JupyterLab adds to every notebook it opens.

    Args:
        model: a notebook or another file, as Jupyter Server is about to save it.
    """
    if model["type"] == "notebook":
        model["content"]["metadata"].get("language_info", {}).pop("version", None)
