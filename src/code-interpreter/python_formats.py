"""The formats that E2B adds to IPython's: columns of data frames, charts of figures, JSON of lists and dictionaries."""

import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from results import plain


class DataFormatter(BaseFormatter):
    """Data frames as columns: an object of lists."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class ChartFormatter(BaseFormatter):
    """Figures as the data that they show."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def lookup(self, obj):
        # No registered printer: choosing image formats removes those of figures from every formatter.
        figures = sys.modules.get("matplotlib.figure")
        if figures is not None and isinstance(obj, figures.Figure):
            return chart_of
        return super().lookup(obj)


def add_formats(shell):
    """Adds the formats to a shell. Nothing is imported before the cell's own imports have brought it."""
    display = shell.display_formatter
    for formatter in (DataFormatter(parent=display), ChartFormatter(parent=display)):
        display.formatters[formatter.format_type] = formatter
        formatter.enabled = True
    display.formatters["e2b/data"].for_type_by_name("pandas.core.frame", "DataFrame", columns_of)
    for kind in (list, dict):
        display.formatters["application/json"].for_type(kind, json_of)
    display.formatters["text/plain"].max_seq_length = 0
    sys.meta_path.insert(0, ImageHook())


def columns_of(frame):
    """A data frame's columns as lists: times as ISO text, NaN as null, names as text."""
    return {str(name): plain(frame.iloc[:, position].tolist()) for position, name in enumerate(frame.columns)}


def chart_of(figure):
    """What a figure shows; `{}` if nothing of it is known."""
    try:
        with warnings.catch_warnings():
            # Newer releases of pydantic warn about charts within charts.
            warnings.simplefilter("ignore")
            from e2b_charts import chart_figure_to_dict

            return chart_figure_to_dict(figure) or {}
    except Exception:
        # A figure of a kind that nobody foresaw is still shown as an image.
        return {}


def json_of(value):
    """A list or dictionary as JSON; None if it has values that JSON does not have."""
    import orjson

    try:
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        return orjson.loads(orjson.dumps(value, option=options))
    except (TypeError, ValueError, RecursionError):
        return None


class ImageHook(MetaPathFinder):
    """Makes `show` and `save` of Pillow's images display the image, from the import of Pillow on."""

    def find_spec(self, name, path=None, target=None):
        if name != "PIL.Image":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = ImageLoader(spec.loader)
        return spec


class ImageLoader(Loader):
    """Loads Pillow's module and changes two methods of its class."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        display_images(module)


def display_images(module):
    """Changes the class of `PIL.Image`."""
    from IPython.display import display

    plain_save = module.Image.save

    def show(self, title=None):
        """Displays the image."""
        display(self)

    def save(self, fp, format=None, **params):
        """Saves the image, and displays it when it is saved under a name."""
        plain_save(self, fp, format, **params)
        if isinstance(fp, str):
            display(self)

    show.__doc__ = module.Image.show.__doc__
    save.__doc__ = plain_save.__doc__
    module.Image.show = show
    module.Image.save = save
