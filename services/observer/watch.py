"""inotify as a source of hints: which files were finished, which folders appeared.

This stands on watchdog's `InotifyFD` and not on its `Observer`, which holds every event back for 0.5 s
behind a file moved out of the tree (and the loader moves each file out), searches its backlog for each file
moved in, and cannot tell a file that was moved in from one just created.
"""

import itertools
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from services.files.names import is_finished
from services.observer.hints import Hints
from services.observer.scan import is_descended

_FINISHED = InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_MOVED_TO
_APPEARED = InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO
_MASK = Mask(
    _FINISHED
    | _APPEARED
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_DONT_FOLLOW
    | InotifyConstants.IN_EXCL_UNLINK
)


@dataclass(frozen=True, slots=True)
class _Folder:
    inode: tuple[int, int]
    descriptor: WatchDescriptor
    callback: CallbackId


class Watch:
    """Turns inotify events of the folders it was told of into hints; a `WatchCallback` of watchdog's.

    It never looks for folders itself: whoever scans one calls `add` first, so no file falls in between.
    """

    def __init__(self, root: str, hints: Hints) -> None:
        self._root = root
        self._hints = hints
        self._folders: dict[str, _Folder] = {}
        self._paths: dict[WatchDescriptor, str] = {}
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self.canary_seen = threading.Event()
        self._canary = ""
        self._inotify = InotifyFD()
        self._inotify.start()

    def stop(self) -> None:
        """Give up all watches and the thread."""
        self._inotify.stop()
        self._inotify.join()

    def expect(self, canary: str) -> None:
        """Tell by `canary_seen` when a file of this name is closed in the root."""
        self._canary = canary
        self.canary_seen.clear()

    def is_alive(self) -> bool:
        """Whether events are still being read."""
        return self._inotify.is_alive()

    def add(self, folder: str) -> None:
        """Watch `folder`, unless this very folder is watched under this name already.

        Raises OSError where that cannot be done.
        """
        info = Path(folder).stat(follow_symlinks=False)
        inode = (info.st_dev, info.st_ino)
        with self._lock:
            watched = self._folders.get(folder)
            if watched is not None:
                if watched.inode == inode:
                    return
                self._remove(folder)
            callback = CallbackId(next(self._ids))
            descriptor = self._inotify.add_callback(os.fsencode(folder), _MASK, self, callback)
            if descriptor < 0:
                raise PermissionError(f"may not watch {folder!r}")
            was = self._paths.get(descriptor)
            if was is not None:
                # The kernel knows a folder by its inode: this one was renamed and still goes by its old name.
                self._remove(was)
            self._folders[folder] = _Folder(inode, descriptor, callback)
            self._paths[descriptor] = folder

    def retain(self, folders: set[str]) -> None:
        """Watch none but these any longer: the others were moved out or are gone."""
        with self._lock:
            for folder in self._folders.keys() - folders:
                self._remove(folder)

    def _remove(self, path: str) -> None:
        folder = self._folders.pop(path)
        self._paths.pop(folder.descriptor, None)
        self._inotify.remove_callbacks([(folder.descriptor, folder.callback)])

    def on_event(self, event: InotifyEvent) -> None:
        """Hint at what this event is about; called by watchdog's thread."""
        folder = self._paths.get(event.wd)
        if folder is None:
            return
        mask = event.mask
        if mask & InotifyConstants.IN_MOVE_SELF:
            if folder == self._root:
                self._hints.folder(folder)
            return
        name = os.fsdecode(event.name)
        if mask & InotifyConstants.IN_ISDIR:
            if mask & _APPEARED and is_descended(name):
                self._hints.folder(f"{folder}/{name}")
        elif mask & _FINISHED:
            if is_finished(name):
                self._hints.file(f"{folder}/{name}")
            elif name == self._canary and folder == self._root:
                self.canary_seen.set()
                self._hints.wake()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Forget a folder that is gone; called by watchdog's thread."""
        with self._lock:
            path = self._paths.pop(wd, None)
            if path is not None:
                self._folders.pop(path, None)
        if path == self._root:
            self._hints.folder(path)

    def on_queue_overflow(self) -> None:
        """Tell that the kernel dropped events; called by watchdog's thread."""
        self._hints.overflow()
