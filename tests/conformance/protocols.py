"""Which protocol stands behind each ability that has one."""

from collections.abc import Mapping

from app.backends.engine import (
    Ability,
    Attaches,
    Commits,
    Copies,
    Execs,
    Groups,
    Kills,
    Measures,
    Networks,
    Pauses,
    Searches,
    Tars,
    Updates,
    Volumes,
    Watches,
)
from app.backends.nodes import Nodes
from app.backends.wires import Wires

PROTOCOLS: Mapping[Ability, type] = {
    Ability.PAUSE: Pauses,
    Ability.KILL: Kills,
    Ability.EXEC: Execs,
    Ability.MEASURE: Measures,
    Ability.NETWORK: Networks,
    Ability.WATCH: Watches,
    Ability.SEARCH: Searches,
    Ability.UPDATE: Updates,
    Ability.COMMIT: Commits,
    Ability.IMAGE_TAR: Tars,
    Ability.COPY: Copies,
    Ability.VOLUMES: Volumes,
    Ability.WIRE: Wires,
    Ability.GROUP: Groups,
    Ability.ATTACH: Attaches,
    Ability.NODE: Nodes,
}
