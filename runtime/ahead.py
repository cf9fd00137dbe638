"""A stage of a pipeline: items made by a thread of their own, ahead of their use, in a bounded queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Iterate over what ``items`` yields while a thread makes the next ones, of which at most ``depth`` wait.

    When the queue is full the thread waits, or with ``drop_oldest`` the item that has waited longest is thrown away and counted.
    An error of ``items`` is raised where they are used. ``close`` ends the thread and the generator; it may be called from any thread.

    Args:
        items: run and closed in the thread.
        depth: items that may wait, 1 or more.
        drop_oldest: for items that are worthless when they are late.
    """

    def __init__(self, items: Generator[T, None, None], depth: int, drop_oldest: bool = False) -> None:
        self.made = self.dropped = 0
        self._items, self._depth, self._drop_oldest = items, depth, drop_oldest
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def close(self, timeout_s: float | None = None) -> None:
        """End the iteration now, what waits is thrown away; wait for the thread, which finishes the item it is at."""
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        try:
            for item in self._items:
                self._offer(item)
                if self._ended:
                    break
        except BaseException as error:
            self._error = error
        finally:
            self._items.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _offer(self, item: T) -> None:
        with self._changed:
            self.made += 1
            if self._drop_oldest and len(self._waiting) == self._depth:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._ended or len(self._waiting) < self._depth)
            if not self._ended:
                self._waiting.append(item)
                self._changed.notify_all()
