"""How many layers go where: tables, and hypothesis against trying everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gpu.ledger import Costs, Holding, open_ledgers, open_listed_ledgers, waiting_for
from agent.gpu.placement import choose
from agent.gpu.together import place
from agent.gpu.trial import Forecast, Wish, wish_for
from agent.model.gguf import Budget, DeviceBudget, LoadRequest, ModelFacts
from agent.model.gpu import Gpu, GpuReading, MigMode
from agent.model.placement import (
    MIB,
    GpuLedger,
    LedgerKind,
    LedgerLine,
    ListedDevice,
    OracleDevice,
    OracleFigures,
    Placement,
    Refusal,
    ServicePlacement,
)

NO_MODEL = ModelFacts("llama", "", "", 0, 1, 0, 1, (), 0, 1, 0, 0, 0, ())
COSTS = Costs(learned=dict.fromkeys("ABCD", 300), margin_mib=0)


def layered(sizes_mib: Sequence[int], scratch_mib: int = 0) -> Forecast:
    """Layers of these sizes; the last ones go to the GPU first."""

    def forecast(layers: int, splits: tuple[float, ...]) -> Budget:
        count = max(len(splits), 1)
        on_gpu = list(sizes_mib[len(sizes_mib) - layers :]) if layers else []
        shares = splits if sum(splits) > 0 else (1.0,) * count
        buckets = [0] * count
        for index, size in enumerate(on_gpu):
            place_at, total = (index + 0.5) / len(on_gpu), 0.0
            for device in range(count):
                total += shares[device] / sum(shares)
                if place_at < total or device == count - 1:
                    buckets[device] += size
                    break
        devices = tuple(DeviceBudget(b * MIB, 0, 0, scratch_mib * MIB) for b in buckets)
        host = DeviceBudget((sum(sizes_mib) - sum(on_gpu)) * MIB)
        return Budget(layers, len(sizes_mib), devices, host, ())

    return forecast


def wish(
    service: str = "alpha",
    sizes: Sequence[int] = (100,) * 33,
    *,
    layers: int | None = None,
    scratch: int = 0,
    pinned: tuple[str, ...] = (),
    keep: ServicePlacement | None = None,
    exclusive: str | None = None,
) -> Wish:
    forecast = layered(sizes, scratch)
    return Wish(service, len(sizes), layers, forecast, (), pinned, keep, exclusive)


def gpu(uuid: str, free_mib: int) -> GpuLedger:
    return GpuLedger(uuid, f"GPU {uuid}", (LedgerLine("NVML", LedgerKind.MEASURED, free_mib),))


def placed(wanted: Wish, *ledgers: GpuLedger) -> ServicePlacement:
    found = choose(wanted, ledgers, COSTS)
    assert isinstance(found, ServicePlacement), found
    return found


def refused(wanted: Wish, *ledgers: GpuLedger) -> Refusal:
    found = choose(wanted, ledgers, COSTS)
    assert isinstance(found, Refusal), found
    return found


# -- one service ---------------------------------------------------------------------------


def test_all_layers_where_they_fit() -> None:
    found = placed(wish(), gpu("A", 3600))
    assert (found.layers, found.of, found.gpus, found.splits) == (33, 33, ("A",), ())
    assert found.needed_mib == {"A": 3600}  # 33 · 100 and the context
    assert found.why == "33/33 on GPU A: 3600 MiB needed, 3600 are free"


def test_auto_says_what_the_next_layer_lacks() -> None:
    found = placed(wish(sizes=(214,) * 33), gpu("A", 300 + 30 * 214 + 96))
    assert found.layers == 30
    assert found.why == "30/33 on GPU A: the next layer needs 214 MiB, 96 are free"
    assert found.host.model_bytes == 3 * 214 * MIB


def test_one_mib_less_is_one_layer_less() -> None:
    assert placed(wish(), gpu("A", 3599)).layers == 32


def test_nothing_fits() -> None:
    found = placed(wish(), gpu("A", 350))
    assert found.layers == 0 and found.gpus == ()
    assert found.why == "0/33: the first layer needs 400 MiB, 350 are free on GPU A"


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (None, "0/33: no GPU, all on the CPU"),
        (20, "0/33: no GPU, all on the CPU (20 asked for)"),
        (0, "0/33: no GPU, all on the CPU"),
    ],
)
def test_a_host_without_a_gpu_is_normal(layers: int | None, why: str) -> None:
    found = placed(wish(layers=layers))
    assert (found.layers, found.gpus, found.why) == (0, (), why)
    assert found.host.model_bytes == 3300 * MIB


def test_no_layers_on_request() -> None:
    assert placed(wish(layers=0), gpu("A", 9000)).why == "0/33: as asked"


def test_more_than_all_is_all() -> None:
    assert placed(wish(layers=999), gpu("A", 3600)).layers == 33


def test_a_number_that_does_not_fit_is_refused_with_the_sum() -> None:
    found = refused(wish(layers=33, scratch=50), gpu("A", 2000))
    assert found.message == (
        "alpha: 33/33 layers need 3650 MiB on GPU A, 2000 are free: 1650 MiB short"
    )
    assert found.arithmetic == (
        "GPU A: +2000 MiB measured free (NVML) = 2000 MiB",
        "alpha needs 3650 MiB there: model 3300, KV 0, compute 50, context 300",
    )
    assert found.hint.startswith("16/33 fit: ")


def test_what_runs_is_kept_while_it_fits() -> None:
    last = placed(wish(), gpu("A", 2300))
    assert last.layers == 20
    kept = placed(wish(keep=last), gpu("A", 3600), gpu("B", 9000))
    assert (kept.layers, kept.gpus) == (20, ("A",)) and kept.why.endswith(", kept as it runs")
    assert placed(wish(keep=last), gpu("A", 1500)).layers == 12
    assert placed(wish(keep=last), gpu("B", 9000)).layers == 33
    assert placed(wish(keep=replace(last, basis="another")), gpu("A", 3600)).layers == 33


def test_a_split_is_kept_to_the_letter() -> None:
    """A few MiB more or less of free memory change no word of the command line."""
    last = placed(wish(), gpu("A", 1300), gpu("B", 3400))
    again = placed(wish(keep=last), gpu("A", 1310), gpu("B", 3395))
    assert again.splits == last.splits == (1000.0, 3100.0)


def test_a_wish_for_a_model_knows_what_it_is_for() -> None:
    facts = replace(NO_MODEL, digest="d")
    one = wish_for("alpha", facts, LoadRequest(context=512))
    assert one.basis == wish_for("beta", facts, LoadRequest(context=512)).basis
    assert one.basis != wish_for("alpha", facts, LoadRequest(context=1024)).basis
    assert (
        one.basis != wish_for("alpha", replace(facts, digest="e"), LoadRequest(context=512)).basis
    )


# -- several GPUs --------------------------------------------------------------------------


def test_whole_on_one_comes_before_a_split() -> None:
    found = placed(wish(), gpu("A", 2000), gpu("B", 4000))
    assert (found.layers, found.gpus) == (33, ("B",))


def test_the_tightest_gpu_that_holds_it_is_taken() -> None:
    assert placed(wish(), gpu("A", 9000), gpu("B", 4000)).gpus == ("B",)


def test_a_split_is_in_proportion_to_what_is_free() -> None:
    found = placed(wish(), gpu("A", 1300), gpu("B", 3300))
    assert (found.layers, found.gpus, found.splits) == (33, ("A", "B"), (1000.0, 3000.0))
    assert sum(need.model_bytes for need in found.needs) == 3300 * MIB
    assert all(need.context_mib == 300 for need in found.needs)


def test_a_part_on_two_is_said_with_the_gpu_that_lacks() -> None:
    found = placed(wish(), gpu("A", 1300), gpu("B", 1300))
    assert found.layers == 20
    assert "the next layer needs 100 MiB, 0 are free on GPU " in found.why


def test_a_pinned_service_stays_on_its_gpu() -> None:
    assert placed(wish(pinned=("A",)), gpu("A", 1300), gpu("B", 9000)).gpus == ("A",)
    assert "none of its GPUs (X) is here" in placed(wish(pinned=("X",)), gpu("A", 9000)).why


# -- hypothesis ----------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 400), min_size=1, max_size=40)


@given(sizes, st.integers(0, 9000), st.lists(st.integers(0, 500), min_size=41, max_size=41))
def test_auto_is_the_most_that_fits(each: list[int], free: int, scratch: list[int]) -> None:
    """Trying every number gives the same, also where more layers need less scratch."""
    plain = layered(each)

    def forecast(layers: int, splits: tuple[float, ...]) -> Budget:
        budget = plain(layers, splits)
        extra = scratch[layers] * MIB
        devices = tuple(replace(d, compute_bound_bytes=extra) for d in budget.devices)
        return replace(budget, devices=devices)

    found = placed(Wish("alpha", len(each), None, forecast), gpu("A", free))
    fits = [
        count
        for count in range(1, len(each) + 1)
        if forecast(count, ()).devices[0].total_bytes // MIB + 300 <= free
    ]
    assert found.layers == max(fits, default=0)


@given(sizes, st.lists(st.integers(301, 6000), min_size=2, max_size=3))
def test_a_split_is_the_most_that_fits(each: list[int], free: list[int]) -> None:
    """No number above the chosen one fits all the GPUs together."""
    ledgers = [gpu(name, mib) for name, mib in zip("ABCD", free, strict=False)]
    found = placed(wish(sizes=each), *ledgers)
    splits = tuple(float(mib - 300) for mib in free)
    for count in range(found.layers + 1, len(each) + 1):
        budget = layered(each)(count, splits)
        pairs = zip(budget.devices, splits, strict=True)
        assert any(device.total_bytes > room * MIB for device, room in pairs)


@given(sizes, st.lists(st.integers(0, 6000), min_size=1, max_size=4))
def test_a_placement_never_takes_more_than_there_is(each: list[int], free: list[int]) -> None:
    ledgers = [gpu(name, mib) for name, mib in zip("ABCD", free, strict=False)]
    found = placed(wish(sizes=each), *ledgers)
    left = {ledger.uuid: ledger.left_mib for ledger in ledgers}
    assert all(mib <= left[uuid] for uuid, mib in found.needed_mib.items())
    assert len(found.splits) in (0, len(found.gpus))
    # More GPUs never mean fewer layers.
    assert found.layers >= max(placed(wish(sizes=each), ledger).layers for ledger in ledgers)


@given(sizes)
def test_more_memory_never_means_fewer_layers(each: list[int]) -> None:
    counts = [placed(wish(sizes=each), gpu("A", free)).layers for free in range(0, 9000, 450)]
    assert all(less <= more for less, more in pairwise(counts))


@given(st.lists(st.tuples(sizes, st.booleans()), min_size=1, max_size=5), st.integers(0, 9000))
def test_services_together_never_overdraw(wanted: list[tuple[list[int], bool]], free: int) -> None:
    wishes = [
        wish(f"s{number}", each, layers=len(each) if fixed else None)
        for number, (each, fixed) in enumerate(wanted)
    ]
    result = place(wishes, [gpu("A", free), gpu("B", free // 2)], COSTS)
    assert all(ledger.left_mib >= 0 for ledger in result.ledgers)
    assert len(result.services) + len(result.refusals) == len(wishes)


# -- several services ----------------------------------------------------------------------


def together(*wishes: Wish, free: int = 5000) -> Placement:
    return place(wishes, [gpu("A", free)], COSTS)


def test_the_second_gets_what_the_first_leaves() -> None:
    result = together(wish("alpha"), wish("beta"))
    assert [found.layers for found in result.services] == [33, 11]
    assert result.ledgers[0].arithmetic == (
        "GPU A: +5000 MiB measured free (NVML), -3300 MiB planned (alpha),"
        " -300 MiB context (alpha, learned), -1100 MiB planned (beta),"
        " -300 MiB context (beta, learned) = 0 MiB"
    )


def test_a_number_is_placed_before_what_can_yield() -> None:
    result = together(wish("alpha"), wish("beta", layers=33))
    assert [(s.service, s.layers) for s in result.services] == [("alpha", 11), ("beta", 33)]


def test_two_that_do_not_fit_together_are_refused_by_both_names() -> None:
    result = together(wish("alpha", layers=33), wish("beta", layers=33))
    (refusal,) = result.refusals
    assert refusal.services == ("beta", "alpha")
    assert refusal.message == (
        "beta does not fit beside alpha (alpha 3600 MiB): beta: 33/33 layers need 3600 MiB on"
        " GPU A, 1400 are free: 2200 MiB short"
    )
    assert "-3300 MiB planned (alpha)" in refusal.arithmetic[0]
    assert [found.service for found in result.services] == ["alpha"]


def test_one_that_never_fits_blames_nobody() -> None:
    result = together(wish("alpha", layers=33), wish("beta", layers=33), free=1000)
    assert [refusal.services for refusal in result.refusals] == [("alpha",), ("beta",)]


def test_exclusive_services_share_the_room_and_the_largest_counts() -> None:
    one = wish("one", layers=33, exclusive="big")
    other = wish("other", (100,) * 40, layers=40, exclusive="big")
    result = together(one, other, wish("rest"))
    assert not result.refusals
    assert [found.layers for found in result.services] == [33, 40, 4]
    assert result.ledgers[0].left_mib == 5000 - 4300 - 700
    assert not together(other, one).refusals


def test_a_fixed_share_is_all_or_nothing() -> None:
    vllm = Wish("vllm", 1, fixed=(("A", 4000),))
    result = together(wish("alpha"), vllm)
    assert [found.layers for found in result.services] == [7, 1]
    assert result.services[1].why == "takes 4000 MiB of GPU A"
    (refusal,) = together(wish("alpha", layers=33), vllm).refusals
    assert "vllm needs 4000 MiB on GPU A, 1400 are free" in refusal.message
    (absent,) = together(Wish("vllm", 1, fixed=(("X", 1),))).refusals
    assert absent.message == "vllm: X is not on this host"


def test_what_runs_is_placed_before_what_is_new() -> None:
    last = placed(wish("beta"), gpu("A", 3600))
    result = together(wish("alpha"), wish("beta", keep=last))
    assert [(found.service, found.layers) for found in result.services] == [
        ("alpha", 11),
        ("beta", 33),
    ]


# -- ledgers -------------------------------------------------------------------------------


def test_a_ledger_counts_what_units_of_ours_give_back() -> None:
    reading = GpuReading(
        gpus=(
            Gpu(0, "A", name="RTX", total_mib=24000, free_mib=1000),
            Gpu(1, "B", name="cut", free_mib=9000, mig=MigMode.ON),
            Gpu(2, "C", name="unread"),
        )
    )
    costs = Costs(margin_mib=256)
    (ledger,) = open_ledgers(reading, [Holding("alpha", {"A": 5000})], costs)
    assert ledger.arithmetic == (
        "GPU 0 RTX: +1000 MiB measured free (NVML), +5000 MiB released when it stops (alpha),"
        " -256 MiB margin (kept free) = 5744 MiB"
    )


def test_a_context_is_assumed_until_it_is_learned() -> None:
    costs = Costs(learned={"A": 310, "B": 0})
    assert [costs.context_mib(uuid) for uuid in "ABC"] == [310, 555, 555]
    assert [costs.origin(uuid) for uuid in "AB"] == ["learned", "assumed"]
    with pytest.raises(ValueError, match="never free"):
        Costs(assumed_mib=0)


def test_a_start_waits_for_what_a_stopped_rival_still_holds() -> None:
    found = placed(wish(), gpu("A", 3600))
    held = GpuReading(gpus=(Gpu(0, "A", free_mib=1200),))
    assert waiting_for(found, held) == ("1200 of 3600 MiB are free on GPU 0",)
    assert waiting_for(found, GpuReading(gpus=(Gpu(0, "A", free_mib=3600),))) == ()
    assert waiting_for(found, GpuReading(gpus=(Gpu(0, "A"),))) == ()


def test_devices_that_only_the_backend_knows_have_ledgers_too() -> None:
    listed = [ListedDevice("Vulkan0", "llvmpipe", 2048, 2000)]
    (ledger,) = open_listed_ledgers(listed, (), Costs(margin_mib=100))
    assert (ledger.uuid, ledger.left_mib) == ("Vulkan0", 1900)


# -- the oracle ----------------------------------------------------------------------------


def says(model_mib: int, compute_mib: int = 0) -> OracleFigures:
    return OracleFigures((OracleDevice("CUDA0", model_mib, 0, compute_mib),))


def test_an_oracle_that_agrees_changes_nothing() -> None:
    (found,) = place([wish()], [gpu("A", 3600)], COSTS, lambda _: says(3300)).services
    assert found.oracle == "the program agrees: CUDA0: model 3300, KV 0, compute 0 MiB"
    assert found.needs[0].exact and found.layers == 33


def test_an_oracle_that_disagrees_is_trusted() -> None:
    (found,) = place([wish()], [gpu("A", 9000)], COSTS, lambda _: says(4000, 70)).services
    assert found.oracle == (
        "the program disagrees and is trusted:"
        " CUDA0 model 4000 MiB, the formula 3300.0, compute 70 MiB, the formula 0.0"
    )
    assert not found.needs[0].exact
    assert found.needed_mib == {"A": 4001 + 1 + 71 + 300}  # a MiB up: it floors


def test_auto_yields_layers_until_the_oracle_fits() -> None:
    def ask(plan: ServicePlacement) -> OracleFigures:
        return says(plan.layers * 110)

    (found,) = place([wish()], [gpu("A", 3600)], COSTS, ask).services
    assert found.layers == 29 and found.needs[0].total_mib <= 3600
    (refusal,) = place([wish(layers=33)], [gpu("A", 3600)], COSTS, ask).refusals
    assert "the program disagrees and is trusted" in refusal.message


def test_an_oracle_far_off_costs_few_questions() -> None:
    asked: list[int] = []

    def ask(plan: ServicePlacement) -> OracleFigures:
        asked.append(plan.layers)
        return says(plan.layers * 400)

    (found,) = place([wish()], [gpu("A", 3600)], COSTS, ask).services
    assert found.layers == 8 and len(asked) <= 4
    (never,) = place([wish()], [gpu("A", 3600)], COSTS, lambda _: says(9000)).services
    assert (never.layers, never.gpus) == (0, ())


def test_a_silent_oracle_leaves_the_formula() -> None:
    (found,) = place([wish()], [gpu("A", 3600)], COSTS, lambda _: None).services
    assert found.layers == 33 and "the formula stands" in found.oracle
