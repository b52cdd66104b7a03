import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer

from common.inferers.position_regression import PositionRegression
from common.losses.position_distance import PositionDistanceLoss
from common.networks.head_ct_model import HeadCTModel
from common.networks.position_regressor import PaddedPositionRegressor, PositionRegressor
from common.transforms.position_crops import RandPositionCropsd


def a_head():
    hu = torch.full((1, 20, 18, 16), -1024, dtype=torch.int16)
    hu[:, 3:16, 2:17, 2:14] = torch.randint(-100, 1200, (1, 13, 15, 12), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    return {"id": "a", "image": hu}


def loader(positions_per_side, windows):
    crops = RandPositionCropsd("image", 15, positions_per_side, 4, windows)
    crops.set_random_state(0)
    return DataLoader(Dataset([a_head(), a_head()], crops), batch_size=2, num_workers=0)


def test_a_batch_becomes_the_windows_and_the_pair_of_positions_and_those_that_count():
    (batch,) = loader(2, 3)
    image, (position, counts) = PositionRegression()(batch)
    assert image is batch["image"]
    assert image.shape == (6, 1, 19, 19, 19)  # two volumes, three windows each; 15 + 4
    assert image.dtype == torch.int16
    assert position.shape == (6, 3, 2, 2, 2)
    assert torch.equal(position, batch["position"])
    assert counts.shape == (6, 1, 2, 2, 2)
    assert counts.dtype == torch.bool


def test_all_three_go_to_the_device():
    (batch,) = loader(1, 1)
    image, (position, counts) = PositionRegression()(batch, device=torch.device("meta"), non_blocking=True)
    assert {tensor.device.type for tensor in (image, position, counts)} == {"meta"}


def train(network, positions_per_side, windows, epochs):
    torch.manual_seed(0)
    model = HeadCTModel(network, 64.0, bins=64, calibration_side=2)
    model.fit_equalisation([a_head()["image"]])
    losses = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=loader(positions_per_side, windows),
        network=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        loss_function=PositionDistanceLoss(),
        prepare_batch=PositionRegression(),
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item()))
    trainer.run()
    return losses


def test_dense_windows_train():
    losses = train(PositionRegressor(15, 4, normalise=False), positions_per_side=2, windows=8, epochs=25)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_random_patches_of_the_paper_train_the_padded_network_too():
    losses = train(PaddedPositionRegressor(15, 2), positions_per_side=1, windows=8, epochs=40)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
