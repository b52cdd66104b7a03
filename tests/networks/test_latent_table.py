import math

import pytest
import torch

from common.errors import UserError
from common.networks.latent_table import FLIP, GLOBAL, LatentTable, regress_on_age, without_subjects


def filled(names, size=4, seed=0, **settings):
    table = LatentTable(names, size, **settings)
    with torch.no_grad():
        table.weight[1:] = torch.rand((len(names), size), generator=torch.Generator().manual_seed(seed)) - 0.5
    return table


def latent(table, name):
    return table(table.rows([name]))[0].detach()


def test_latents_begin_at_zero_and_the_global_one_is_row_zero():
    table = LatentTable(["a", "b"], 3)
    assert table.names == (GLOBAL, "a", "b")
    assert table.rows([GLOBAL, "b", "b"]).tolist() == [0, 2, 2]
    assert torch.equal(table.weight, torch.zeros(3, 3))


@pytest.mark.parametrize("learned", [False, True])
def test_the_global_latent_learns_only_where_it_is_asked_to(learned):
    table = LatentTable(["a"], 3, learned_global=learned)
    table(table.rows([GLOBAL, "a"])).sum().backward()
    assert table.weight.grad[0].abs().sum() == (3 if learned else 0)
    assert table.weight.grad[1].tolist() == [1, 1, 1]


def test_a_row_beyond_the_bound_is_scaled_to_it_when_it_is_looked_up_and_others_are_not():
    table = LatentTable(["a", "b", "c"], 2)
    with torch.no_grad():
        table.weight[1:] = torch.tensor([[2.0, -4.0], [0.5, -0.25], [3.0, 0.0]])
    torch.testing.assert_close(table(table.rows(["a", "b"])).detach(), torch.tensor([[0.5, -1.0], [0.5, -0.25]]))
    assert table.weight[3].tolist() == [3, 0]  # not looked up
    free = LatentTable(["a"], 2, max_norm=None)
    free.load_state_dict(filled_like(table))
    assert latent(free, "a").abs().max() > 0.99


def filled_like(table):
    return {key: value.clone() for key, value in table.state_dict().items()}


def test_no_bound_leaves_rows_as_they_are():
    table = LatentTable(["a"], 2, max_norm=None)
    with torch.no_grad():
        table.weight[1] = torch.tensor([2.0, -4.0])
    assert latent(table, "a").tolist() == [2, -4]


def test_a_table_without_identities_takes_all_that_a_file_has(tmp_path):
    source = filled(["süd", "b" + FLIP], learned_global=True)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    table = LatentTable(size=4)
    table.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert table.names == source.names
    assert torch.equal(table.weight, source.weight)
    other = filled(["x", "y", "z"], seed=1)
    table.load_state_dict(other.state_dict())
    assert table.names == other.names  # again, as for the next member of an ensemble


def test_the_parameter_stays_the_object_that_an_optimizer_holds():
    table = LatentTable(size=4)
    held = table.weight
    table.load_state_dict(filled(["a", "b"]).state_dict())
    assert table.weight is held and held.requires_grad and len(held) == 3


def test_rows_go_by_name_and_new_identities_begin_at_zero():
    source, table = filled(["a", "b", "c"]), filled(["c", "new", "a"], seed=1)
    table.load_state_dict(source.state_dict())
    for name in ("a", "c"):
        assert torch.equal(latent(table, name), latent(source, name))
    assert latent(table, "new").tolist() == [0, 0, 0, 0]
    assert table.names == (GLOBAL, "c", "new", "a")


def test_a_learned_global_latent_is_loaded_too():
    source = filled(["a"], learned_global=True)
    with torch.no_grad():
        source.weight[0] = 0.25
    table = LatentTable(["b"], 4, learned_global=True)
    table.load_state_dict(source.state_dict())
    assert latent(table, GLOBAL).tolist() == [0.25] * 4


def test_the_same_table_comes_back_exactly():
    source, table = filled(["a", "b"]), LatentTable(["a", "b"], 4)
    table.load_state_dict(source.state_dict())
    assert {k: v.tolist() for k, v in source.state_dict().items() if k != "identity_ages"} == {
        k: v.tolist() for k, v in table.state_dict().items() if k != "identity_ages"
    }


def test_latents_of_another_size_and_missing_keys_are_errors_of_torch():
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        LatentTable(["a"], 5).load_state_dict(filled(["a"]).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        LatentTable(["a"], 5).load_state_dict({})


def test_the_mean_leaves_out_mirrored_and_global_latents():
    table = filled(["a", "a" + FLIP, "b"])
    torch.testing.assert_close(table.mean(), (table.weight[1] + table.weight[3]).detach() / 2)
    assert LatentTable(size=4).mean().tolist() == [0, 0, 0, 0]


def test_the_slope_on_age_is_that_of_least_squares():
    latents = torch.tensor([[1.0, 0.0], [2.0, 5.0], [4.0, 1.0], [3.0, 2.0]], dtype=torch.float64)
    ages = torch.tensor([0.3, 0.32, 0.4, 0.41], dtype=torch.float64)
    design = torch.stack([torch.ones(4, dtype=torch.float64), ages], 1)
    torch.testing.assert_close(regress_on_age(latents, ages), torch.linalg.lstsq(design, latents).solution[1])


@pytest.mark.parametrize("ages", [[0.4], [0.4, 0.4]])
def test_ages_that_do_not_differ_give_no_slope(ages):
    assert regress_on_age(torch.ones(len(ages), 3), torch.tensor(ages)).tolist() == [0, 0, 0]


def test_the_tables_slope_uses_scans_of_known_age_that_are_not_mirrored():
    table = filled(["a", "b", "b" + FLIP, "c"], ages=[0.3, 0.4, 0.4, math.nan])
    torch.testing.assert_close(table.slope(), (table.weight[2] - table.weight[1]).detach() / 0.1)
    assert filled(["a", "b"]).slope().abs().sum() == 0
    loaded = LatentTable(size=4)
    loaded.load_state_dict(table.state_dict())
    torch.testing.assert_close(loaded.slope(), table.slope())


def test_ages_of_the_table_outrank_unknown_ones_of_the_file():
    table = LatentTable(["a", "b"], 4, ages=[0.3, 0.4])
    table.load_state_dict(filled(["a", "b"]).state_dict())
    torch.testing.assert_close(table.identity_ages[1:], torch.tensor([0.3, 0.4]))


def test_weights_without_subjects_hold_the_global_latent_the_mean_and_the_slope():
    table = filled(["a", "b", "a" + FLIP], ages=[0.3, 0.4, 0.3], learned_global=True)
    with torch.no_grad():
        table.weight[0] = 0.5
    state = {"inr.weight": torch.ones(1), **{f"latents.{key}": value for key, value in table.state_dict().items()}}
    stripped = without_subjects(state)
    assert list(stripped) == list(state) and torch.equal(stripped["inr.weight"], torch.ones(1))
    assert stripped["latents.weight"].tolist() == [[0.5] * 4]
    assert bytes(stripped["latents.identity_names"].tolist()) == b"#global"
    bare = LatentTable(size=4)
    bare.load_state_dict({key.removeprefix("latents."): value for key, value in stripped.items() if key.startswith("latents.")})
    assert bare.names == (GLOBAL,)
    torch.testing.assert_close(bare.mean(), table.mean())
    torch.testing.assert_close(bare.slope(), table.slope())
    again = without_subjects(stripped)
    assert torch.equal(again["latents.mean_latent"], stripped["latents.mean_latent"])
    assert len(table.state_dict()["weight"]) == 4  # the network in hand keeps its own


def test_drawing_anew_forgets_latents_and_keeps_names():
    table = filled(["a"])
    table.reset_parameters()
    assert table.weight.abs().sum() == 0 and table.names == (GLOBAL, "a")


def test_an_unknown_name_is_an_error_that_tells_what_there_is():
    with pytest.raises(UserError, match=r"latents: no latent of x, y; the table holds 3 \(#global, a, b\)\. Fit one to the image"):
        LatentTable(["a", "b"], 2).rows(["a", "x", "y"])


@pytest.mark.parametrize(
    ("names", "ages", "text"),
    [
        (["a", "b", "a"], None, "identities: a more than once"),
        (["a\nb"], None, r"identities: got \['a\\nb'\]; expected names without line breaks"),
        ([GLOBAL], None, "other than '#global'"),
        (["a", "b"], [0.4], "ages: got 1 for 2 identities; expected one each"),
    ],
)
def test_names_that_cannot_be_told_apart_are_errors(names, ages, text):
    with pytest.raises(UserError, match=text):
        LatentTable(names, 2, ages=ages)


def test_weights_without_a_table_are_an_error():
    with pytest.raises(UserError, match="found no table of latents"):
        without_subjects({"a": torch.ones(1)})
