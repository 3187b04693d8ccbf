"""The napari plugin: a reader, a writer and one widget; only `widget` needs napari itself."""

__all__: list[str] = []
