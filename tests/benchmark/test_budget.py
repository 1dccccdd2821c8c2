"""A limit of processor time."""

import time

from lightning import Trainer

from lit_ad.benchmark.budget import ProcessorTime


def test_a_resumed_training_continues_the_count() -> None:
    """Time asleep does not count. The time before a resumption does."""
    first, second = ProcessorTime(minutes=0.02), ProcessorTime(minutes=0.02)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    first.on_train_start()
    time.sleep(1.5)
    first.on_train_batch_end(trainer)
    assert not trainer.should_stop
    began = time.process_time()
    while time.process_time() - began < 0.7:
        pass
    second.load_state_dict(first.state_dict())
    assert second.time_elapsed() >= 0.7
    second.on_train_start()
    while time.process_time() - began < 1.4:
        pass
    second.on_train_batch_end(trainer)
    assert trainer.should_stop
