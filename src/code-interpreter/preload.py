"""Modules that are loaded before kernels are forked, because cells of data analysis import them first of all.

A kernel does not show them: they lie on a shelf beside `sys.modules` until a cell imports one, which then takes
milliseconds instead of seconds. A package that was installed anew since, or that something on the path hides, is
imported as usual.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder

from python_formats import ImageHook

CELLS = (
    "import numpy, orjson, pandas, matplotlib.pyplot as plt\n"
    "from e2b_charts import chart_figure_to_dict\n"
    "from PIL import Image, JpegImagePlugin, PngImagePlugin",
    "pandas.DataFrame({'a': [1, 2]})",
    "plt.plot([1, 2], label='a')\nplt.title('a')\nplt.legend()\nplt.show()",
    "plt.close('all')",
)
# What a package has always imported when it is imported.
REQUIRES = {"pandas": ("numpy",), "matplotlib": ("numpy",), "e2b_charts": ("matplotlib", "pydantic")}


class Shelf(MetaPathFinder, Loader):
    """The modules, by their packages."""

    def __init__(self):
        self._packages = {}
        self._files = {}
        self._is_checked = False

    def fill(self, run_cell):
        """Runs the cells, and puts what they load and is no part of Python itself on the shelf."""
        before = set(sys.modules)
        for code in CELLS:
            result = run_cell(code)
            if not result.success:
                print(f"a package is not loaded ahead: {result.error_in_exec}", file=sys.stderr)
        for name in [name for name in sys.modules if name not in before]:
            module = sys.modules[name]
            package = name.partition(".")[0]
            # Modules of packages that are there, and of Python itself, stay.
            if package in before or package in sys.stdlib_module_names or package == "__main__":
                continue
            self._packages.setdefault(package, {})[name] = module
        for modules in self._packages.values():
            for name in modules:
                del sys.modules[name]
        for package in list(self._packages):
            origin = self._origin_of(package)
            self._files[package] = (origin, identity(origin))
        sys.meta_path.insert(0, self)

    def is_stale(self):
        """Whether a package was installed anew. A process that has the old one loaded cannot load it again."""
        return any(identity(origin) != seen for origin, seen in self._files.values())

    def hidden(self, name):
        """A module that is on the shelf, or None."""
        return self._packages.get(name.partition(".")[0], {}).get(name)

    def find_spec(self, name, path=None, target=None):
        if name not in self._packages:
            return None
        if not self._is_checked:
            self._is_checked = True
            if self.is_stale():
                self._clear()
                return None
        if self._origin_of(name) != self._files[name][0]:
            # Something hides the package from cells.
            return None
        module = self._packages[name][name]
        self._show(name)
        # A module that is in sys.modules now would be run once more, without what its own modules gave it.
        del sys.modules[name]
        origin = module.__spec__.origin
        return ModuleSpec(name, self, origin=origin, loader_state=module, is_package=hasattr(module, "__path__"))

    def create_module(self, spec):
        module = spec.loader_state
        self._spec = module.__spec__
        return module

    def exec_module(self, module):
        # The import has given it the spec of this shelf.
        module.__spec__ = self._spec

    def _show(self, package):
        modules = self._packages.pop(package, None)
        if modules is None:
            return
        sys.modules.update(modules)
        for other in REQUIRES.get(package, ()):
            self._show(other)

    def _clear(self):
        self._packages.clear()
        sys.meta_path.insert(0, ImageHook())

    @staticmethod
    def _origin_of(package):
        spec = PathFinder.find_spec(package)
        return None if spec is None else spec.origin


def identity(path):
    """What changes when a package is installed anew."""
    try:
        info = os.stat(path)
    except (OSError, TypeError):
        return None
    # No inode: gVisor numbers them anew when it restores.
    return (info.st_mtime_ns, info.st_size)


SHELF = Shelf()


def module_if_loaded(name):
    """A module that a cell has imported or may import at once; None if there is no such module in this process."""
    return sys.modules.get(name) or SHELF.hidden(name)

