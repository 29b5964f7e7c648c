"""What callbacks for trainers report, refuse and leave, in one process each."""

from __future__ import annotations

import copy
import json
import stat
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from p2p_elastic.errors import ConfigError
from p2p_elastic.screens.live import SilentScreen

pytestmark = [  # Lightning's
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*but have no .val_dataloader.:UserWarning"),
]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return {"run": "small", "host": "127.0.0.1", "port": 0, "http_port": 0, "screen": SilentScreen()}


class Constant(nn.Module):
    """Has a loss of 3 for each example, whatever it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def loss(self, inputs: Tensor) -> Tensor:
        return 3.0 + 0.0 * (inputs * self.weight).sum(1)


class MeanLoss(Constant):
    """Computes the mean of a batch."""

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": self.loss(inputs).mean(), "logits": inputs}


class SharedLoss(Constant):
    """Computes the share of a batch in the loss of a step, as the language models of transformers do."""

    def forward(self, inputs: Tensor, labels: Tensor, num_items_in_batch: Any = None, **_: Any) -> dict[str, Tensor]:
        losses = self.loss(inputs)
        return {"loss": losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch}


class NoLoss(Constant):
    """Leaves the loss to the Trainer."""

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": 0.0 * (inputs * self.weight)}


class Interrupted:
    """A swarm of which nobody hears the end."""

    follows = False

    def peer_state(self) -> dict[str, Any]:
        raise KeyboardInterrupt


class TestTransformers:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")

    def trainer(self, folder: Path, model: nn.Module, *callbacks: Any, **changes: Any) -> Any:
        from transformers import Trainer, TrainingArguments

        arguments = {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "remove_unused_columns": False,
            **changes,
        }
        data = [{"inputs": torch.randn(4), "labels": torch.tensor(1)} for _ in range(32)]
        return Trainer(
            model,
            TrainingArguments(str(folder), **arguments),
            train_dataset=data,
            eval_dataset=data,
            compute_metrics=lambda _: {"accuracy": 0.75},
            callbacks=list(callbacks),
        )

    def test_what_the_trainer_measures_is_shown_by_its_name(self, options: dict[str, Any], tmp_path: Path) -> None:
        from p2p_elastic.integrations.transformers import SwarmCallback

        self.trainer(tmp_path, MeanLoss(), SwarmCallback(**options), eval_strategy="steps", eval_steps=3).train()
        summary = json.loads((tmp_path / "_swarm" / "summary.json").read_text())
        assert summary["validation_metrics"] == {"eval_loss": pytest.approx(3.0), "eval_accuracy": 0.75}

    def hearing(self, found: list[float | None], swarm: Any) -> Any:
        from transformers import TrainerCallback

        class Hears(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                found.append(swarm.swarm.status().training.loss)

        return Hears()

    @pytest.mark.parametrize("averages", [True, False])
    @pytest.mark.parametrize("model", [MeanLoss, SharedLoss])
    def test_with_accumulation_the_loss_is_that_of_an_example(
        self, options: dict[str, Any], tmp_path: Path, model: type[nn.Module], averages: bool
    ) -> None:
        from p2p_elastic.integrations.transformers import SwarmCallback

        swarm, found = SwarmCallback(**options), list[float | None]()
        hears = self.hearing(found, swarm)
        self.trainer(tmp_path, model(), swarm, hears, average_tokens_across_devices=averages).train()
        assert found[-1] == pytest.approx(3.0)
        assert swarm.swarm is None
        summary = json.loads((tmp_path / "_swarm" / "summary.json").read_text())
        assert summary["steps"] == 6

    def test_a_loss_that_the_model_does_not_compute_is_the_one_that_is_logged(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        from p2p_elastic.integrations.transformers import SwarmCallback

        def uniform(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
            return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

        swarm, found = SwarmCallback(**options), list[float | None]()
        trainer = self.trainer(tmp_path, NoLoss(), swarm, self.hearing(found, swarm), logging_steps=1)
        trainer.compute_loss_func = uniform
        trainer.train()
        assert found[-1] == pytest.approx(torch.tensor(4.0).log().item(), abs=1e-3)

    def test_an_error_in_training_leaves_the_swarm_and_comes_out_as_it_is(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        from transformers import TrainerCallback

        from p2p_elastic.integrations.transformers import SwarmCallback

        class Fails(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                raise ZeroDivisionError("on purpose")

        swarm = SwarmCallback(**options)
        with pytest.raises(ZeroDivisionError, match="on purpose"), swarm:
            self.trainer(tmp_path, MeanLoss(), swarm, Fails()).train()
        assert swarm.swarm is None
        assert not (tmp_path / "_swarm" / "summary.json").exists()
        with swarm:  # again
            self.trainer(tmp_path, MeanLoss(), swarm).train()
        assert (tmp_path / "_swarm" / "summary.json").exists()

    def test_the_model_can_be_copied_while_it_trains(self, options: dict[str, Any], tmp_path: Path) -> None:
        from transformers import TrainerCallback

        from p2p_elastic.integrations.transformers import SwarmCallback

        copies = []

        class Copies(TrainerCallback):
            def on_step_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
                copies.append(copy.deepcopy(model))

        self.trainer(tmp_path, MeanLoss(), SwarmCallback(**options), Copies()).train()
        assert len(copies) == 6

    def test_what_the_swarm_refuses_comes_out_as_it_is(self, options: dict[str, Any], tmp_path: Path) -> None:
        from p2p_elastic.integrations.transformers import SwarmCallback

        swarm = SwarmCallback(**options | {"rule": "nonsense"})
        with pytest.raises(ConfigError, match="rule: got 'nonsense'"), swarm:
            self.trainer(tmp_path, MeanLoss(), swarm).train()

    def test_a_length_in_time_ends_the_training(self, options: dict[str, Any], tmp_path: Path) -> None:
        from p2p_elastic.integrations.transformers import SwarmCallback

        trainer = self.trainer(tmp_path, MeanLoss(), SwarmCallback(**options, duration="0.3s"), max_steps=10**6)
        trainer.train()
        assert 0 < trainer.state.global_step < 10**6

    def test_the_key_is_for_its_owner_alone_and_a_checkpoint_without_it_is_said(
        self, options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from p2p_elastic.integrations.transformers import PEER_FILE, SwarmCallback

        saving = {"save_strategy": "steps", "save_steps": 3}
        self.trainer(tmp_path, MeanLoss(), SwarmCallback(**options), **saving).train()
        file = tmp_path / "checkpoint-3" / PEER_FILE
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        first = json.loads(file.read_text())["facts"]["manifest"]["founder"]
        file.unlink()
        trainer = self.trainer(tmp_path, MeanLoss(), SwarmCallback(**options), **saving)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert "a new peer" in caplog.text
        summary = json.loads((tmp_path / "_swarm" / "summary.json").read_text())
        assert summary["peer"] != first
        assert summary["steps"] == 3

    def test_a_save_that_is_interrupted_leaves_the_one_before(self, options: dict[str, Any], tmp_path: Path) -> None:
        from transformers import TrainerControl, TrainerState, TrainingArguments

        from p2p_elastic.integrations.transformers import PEER_FILE, SwarmCallback

        callback = SwarmCallback(**options)
        trainer = self.trainer(tmp_path, MeanLoss(), callback, save_strategy="steps", save_steps=3)
        trainer.train()
        files = {path: path.read_bytes() for path in (tmp_path / "checkpoint-3").iterdir()}
        assert tmp_path / "checkpoint-3" / PEER_FILE in files
        callback.swarm = cast(Any, Interrupted())
        with pytest.raises(KeyboardInterrupt):
            callback.on_save(TrainingArguments(str(tmp_path)), TrainerState(global_step=3), TrainerControl())
        callback.swarm = None
        assert {path: path.read_bytes() for path in (tmp_path / "checkpoint-3").iterdir()} == files

    def test_a_checkpoint_that_was_not_saved_to_its_end_is_not_resumed_from(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        from p2p_elastic.integrations.transformers import SwarmCallback, last_checkpoint

        assert last_checkpoint(tmp_path) is None
        saving = {"save_strategy": "steps", "save_steps": 2}
        self.trainer(tmp_path, MeanLoss(), SwarmCallback(**options), max_steps=10, **saving).train()
        assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
        cut_off = tmp_path / "checkpoint-10"
        for path in cut_off.iterdir():
            if path.name != "model.safetensors":
                path.unlink()
        assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")
        trainer = self.trainer(tmp_path, MeanLoss(), SwarmCallback(**options), max_steps=12, **saving)
        trainer.train(resume_from_checkpoint=last_checkpoint(tmp_path))
        assert trainer.state.global_step == 12

    @pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
    def test_checkpoints_that_are_published_are_refused(
        self, options: dict[str, Any], tmp_path: Path, strategy: str
    ) -> None:
        from transformers import TrainerControl, TrainerState, TrainingArguments

        from p2p_elastic.integrations.transformers import SwarmCallback

        arguments = TrainingArguments(str(tmp_path), push_to_hub=True, hub_strategy=strategy, use_cpu=True)
        with pytest.raises(ConfigError, match="hub_strategy: got '" + strategy):
            SwarmCallback(**options).on_train_begin(arguments, TrainerState(), TrainerControl(), model=MeanLoss())


class TestLightning:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("lightning")

    def fit(self, folder: Path, *callbacks: Any, steps: int = 6, fails: bool = False, validates: bool = False) -> Any:
        import lightning.pytorch as pl
        from torch.utils.data import DataLoader

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = Constant()

            def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
                if fails and batch_idx == 4:
                    raise ZeroDivisionError("on purpose")
                return self.model.loss(batch).mean()

            def validation_step(self, batch: Tensor, batch_idx: int) -> None:
                self.log("val_accuracy", torch.tensor(0.75))
                self.log("loss", torch.tensor(3.0))  # no name of a metric: left out

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        trainer = pl.Trainer(
            max_steps=steps,
            accumulate_grad_batches=2,
            callbacks=list(callbacks),
            default_root_dir=folder,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), *(DataLoader(torch.randn(64, 4), batch_size=2) for _ in range(1 + validates)))
        return trainer

    def test_what_the_module_logs_is_shown_by_its_name(self, options: dict[str, Any], tmp_path: Path) -> None:
        from p2p_elastic.integrations.lightning import SwarmCallback

        self.fit(tmp_path, SwarmCallback(**options), steps=32, validates=True)
        summary = json.loads((tmp_path / "swarm" / "summary.json").read_text())
        assert summary["validation_metrics"] == {"val_accuracy": 0.75}

    def test_with_accumulation_the_loss_is_that_of_an_example_and_later_checkpoints_have_the_peer(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        import lightning.pytorch as pl

        from p2p_elastic.integrations.lightning import SwarmCallback

        swarm, found = SwarmCallback(**options), list[float | None]()

        class Hears(pl.Callback):
            def on_train_batch_end(self, *_: Any) -> None:
                assert swarm.swarm is not None
                found.append(swarm.swarm.status().training.loss)

        trainer = self.fit(tmp_path, swarm, Hears())
        assert found[-1] == pytest.approx(3.0)
        summary = json.loads((tmp_path / "swarm" / "summary.json").read_text())
        assert summary["steps"] == 6
        trainer.save_checkpoint(tmp_path / "later.ckpt")
        saved = torch.load(tmp_path / "later.ckpt", weights_only=True)["callbacks"]["SwarmCallback"]
        assert saved["peer"]["facts"]["training"]["step"] == 6

    def test_an_error_in_training_leaves_the_swarm_and_comes_out_as_it_is(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        from p2p_elastic.integrations.lightning import SwarmCallback

        swarm = SwarmCallback(**options)
        with pytest.raises(ZeroDivisionError, match="on purpose"):
            self.fit(tmp_path, swarm, fails=True)
        assert swarm.swarm is None
        assert not (tmp_path / "swarm" / "summary.json").exists()

    def test_what_the_swarm_refuses_comes_out_as_it_is(self, options: dict[str, Any], tmp_path: Path) -> None:
        from p2p_elastic.integrations.lightning import SwarmCallback

        with pytest.raises(ConfigError, match="rule: got 'nonsense'"):
            self.fit(tmp_path, SwarmCallback(**options | {"rule": "nonsense"}))

    def test_a_length_in_time_ends_the_training(self, options: dict[str, Any], tmp_path: Path) -> None:
        from p2p_elastic.integrations.lightning import SwarmCallback

        trainer = self.fit(tmp_path, SwarmCallback(**options, duration="0.3s"), steps=10**6)
        assert 0 < trainer.global_step < 10**6
