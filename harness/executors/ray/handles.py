"""Names for the handles that Ray returns. Ray carries no types that mypy checks, so both are `Any`."""

from typing import Any, TypeAlias

ObjectRef: TypeAlias = Any
"""A value that is in the object store, or will be; `ray.get` fetches it."""

ActorHandle: TypeAlias = Any
"""An actor: `actor.method.remote(…)` calls a method and returns an ObjectRef."""
