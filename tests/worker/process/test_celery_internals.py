"""The parent uses parts of Celery that have no documentation."""

from importlib.metadata import version


def test_the_parent_was_tested_with_the_internals_of_these_versions() -> None:
    """After an upgrade, run the tests of this folder; once they pass, change the versions here.

    `worker.app` uses, through `worker.pool._pool`, the children of billiard's pool (`_pool`, `outqR_fd`, `_popen`,
    `_is_alive`) and its callback `on_process_down`. Without them, a worker would take jobs before its model is loaded
    (`ModelGate`), or jobs of a dead child would wait until their leases expire (`ChildWatch`).
    """
    assert version("celery").startswith("5.7.")
    assert version("billiard").startswith("4.3.")
