"""What was found, in words that need no knowledge of the method."""

from collections import Counter

from ..io.found import Consensus, Landscape, State, Symmetry
from .summary import RunSummary

# Share of the total variance below which a first component is no motion to speak of.
_NOTHING_MOVES = 0.1


def headline(run: RunSummary) -> str:
    """One sentence: how many volumes to believe, and what they show."""
    total = len(run.volumes)
    if total == 0 and run.consensus is not None and run.rigid:
        return _one_map(run.consensus)
    if total == 0:
        return f"{run.table['input']['images']} class averages; no volumes have been reconstructed yet."
    counts = Counter(volume.verdict for volume in run.volumes)
    if counts[None] == total:
        return f"{total} volumes were reconstructed; nobody has judged yet which of them are reliable."
    found = f"{counts['reliable']} of {total} volumes are reliable"
    states = len(clusters(run))
    shown = [_states(states)] if states else []
    group = _group(run)
    if group not in (None, "C1"):
        shown.append(f"{group} symmetry")
    return f"{found}; they show {_joined(shown)}." if shown and counts["reliable"] else f"{found}."


def sentences(run: RunSummary) -> list[str]:
    """Say the rest of it, a sentence for each thing that was looked at."""
    counts = Counter(volume.verdict for volume in run.volumes)
    said = []
    if counts["doubtful"] or counts["wrong"]:
        # of a molecule that moves the consensus was made before there were volumes
        without = "the states, the motion and the consensus" if run.rigid else "the states and the motion"
        said.append(
            f"{_count(counts['doubtful'], 'volume')} {_is(counts['doubtful'])} doubtful and {counts['wrong']} wrong; "
            f"each says why below. They are left out of {without}."
        )
    if run.symmetry is not None:
        said.append(_symmetry(run.symmetry))
    if any(volume.rotation for volume in run.volumes):
        said.append(_hand(run))
    if run.landscape is not None:
        said += _motion(run)
    if run.initial is not None:
        said.append(f"The initial model: {run.initial['answer']}. {run.initial['reason']}")
    if run.motion is not None:
        overruled = run.motion["moves"] is not None and run.table["settings"].get("rigid") == run.motion["moves"]
        said.append(run.motion.get("reason", "") + (" This was overruled by --rigid." if overruled else ""))
        if (copies := run.motion.get("copies")) is not None:
            said.append(copies["reason"])
    found = run.motion or run.consensus
    if found and (spread := found.get("angular_spread_degrees")):
        said.append(
            f"Views within classes spread by about {spread:.1f}°, as the map's lack of fine detail far from the centre "
            "tells; that blur is undone as far as noise lets."
        )
    if run.choice is not None:
        said.append(run.choice)
    if run.volumes and run.consensus is not None and (resolution := run.consensus.get("resolution_angstrom")):
        images = run.consensus["images_used"]
        used = f"{len(images) if isinstance(images, list) else images} class averages"
        said.append(f"A consensus map of {used} has a resolution of {resolution:.1f} Å (FSC 0.143 between halves).")
    if left := len(run.left_out):
        said.append(
            f"{_count(left, 'class average')} {_was(left)} left out before training, shown below with the reasons."
        )
    return said


def facts(run: RunSummary) -> list[dict[str, str]]:
    """Figures to put side by side: value, label, note."""
    counts = Counter(volume.verdict for volume in run.volumes)
    total = len(run.volumes)
    judged = total - counts[None]
    images = f"{run.table['input']['images']} class averages went in"
    if run.left_out:
        images = f"{run.table['input']['images']} class averages, {len(run.left_out)} left out"
    found = [_fact(f"{counts['reliable']} / {judged}", "volumes reliable", images)] if judged else []
    if not judged and (total or run.consensus is None):
        found.append(_fact(str(total), "volumes", images))
    if (group := _group(run)) is not None:
        found.append(_fact(group, "symmetry", "none found" if group == "C1" else "of the rigid part"))
    if any(volume.rotation for volume in run.volumes):
        sure = [volume.hand_certain for volume in run.volumes if volume.trusted]
        found.append(_fact("one hand", "frame and hand", f"{sum(map(bool, sure))} of {len(sure)} decisions certain"))
    if described := clusters(run):
        largest = max(population(each, described) for each in described)
        found.append(
            _fact(str(len(described)), "states" if len(described) > 1 else "state", f"largest holds {largest:.0%}")
        )
    if run.consensus is not None and (resolution := run.consensus.get("resolution_angstrom")):
        found.append(_fact(f"{resolution:.1f} Å", "resolution", "consensus, FSC 0.143"))
    else:
        pixel = run.table["input"]["pixel_size_angstrom"]
        found.append(_fact(f"{pixel:.3g} Å", "pixel size", f"{2 * pixel:.3g} Å is the finest detail possible"))
    return found


def _one_map(consensus: Consensus) -> str:
    """One sentence on a molecule that was taken as rigid."""
    resolution, symmetry = consensus.get("resolution_angstrom"), consensus.get("symmetry", "C1")
    with_symmetry = "" if symmetry == "C1" else f" with {symmetry} symmetry"
    found = f"One map{with_symmetry} of {consensus['images_used']} class averages, taken as rigid"
    if resolution:
        return f"{found}; its resolution is {resolution:.1f} Å (FSC 0.143 between independent halves)."
    return f"{found}; its resolution is not known."


def explained_shares(landscape: Landscape) -> list[float]:
    """Part of the variance along each component, 0 to 1."""
    return [share or 0.0 for share in landscape.get("explained_share", [])]


def clusters(run: RunSummary) -> list[State]:
    """States that landscape.json lists."""
    return (run.landscape or Landscape()).get("clusters", [])


def population(cluster: State, clusters: list[State]) -> float:
    """Share of a state; populations are counts or shares already."""
    total = sum(each["population"] for each in clusters)
    return cluster["population"] / total if total else 0.0


def _group(run: RunSummary) -> str | None:
    return None if run.symmetry is None else run.symmetry["group"]


def _symmetry(symmetry: Symmetry) -> str:
    if text := symmetry.get("words", "").strip().rstrip("."):
        return text[0].upper() + text[1:] + "."
    if symmetry["group"] == "C1":
        return "No symmetry was found."
    correlation = symmetry["correlation"]
    surely = "" if correlation is None else f" (correlation {correlation:.2f})"
    return f"The part that keeps its shape has {symmetry['group']} symmetry{surely}."


def _hand(run: RunSummary) -> str:
    sure = [volume.hand_certain for volume in run.volumes if volume.trusted]
    return (
        f"All volumes are in one frame and of one hand; for {sum(map(bool, sure))} of {len(sure)} the hand is certain. "
        "Projections cannot tell an object from its mirror image, so the whole set may have to be mirrored."
    )


def _motion(run: RunSummary) -> list[str]:
    said = []
    if run.rigid:
        return ["The molecule was taken as rigid: what differs between the volumes is error and no motion."]
    states = clusters(run)
    if len(states) > 1:
        shares = " : ".join(f"{population(each, states):.0%}" for each in states)
        said.append(f"The reliable volumes fall into {len(states)} states, in parts of {shares}.")
    landscape = run.landscape or Landscape()
    explained, beyond_noise = explained_shares(landscape), landscape.get("significant")
    if beyond_noise is not None and not any(beyond_noise):
        said.append("No motion stands out from the errors of the volumes: what differs between them may be noise.")
    elif explained and explained[0] >= _NOTHING_MOVES:
        motions = sum(map(bool, beyond_noise or ()))
        which = f"The strongest of {motions} motions" if motions > 1 else "One motion"
        said.append(f"{which} explains {explained[0]:.0%} of all differences between them; it can be played below.")
    return said


def _fact(value: str, label: str, note: str) -> dict[str, str]:
    return {"value": value, "label": label, "note": note}


def _states(count: int) -> str:
    return "one state" if count == 1 else f"{count} states"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _joined(parts: list[str]) -> str:
    return " and ".join(parts)
