"""Where Hydra looks for sweepers, at every start: so all but the class itself is imported when a sweep runs."""

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=r1lab_optuna`; see `r1lab.sweeper`."""

    def __init__(self, **settings):
        self.settings = settings

    def setup(self, *, hydra_context, task_function, config):
        self.config, self.loader = config, hydra_context.config_loader
        # Hydra has resolved them for the sweep; `loss.epsilon_low: ${loss.epsilon_high}` is to follow each point.
        self.settings["params"] = OmegaConf.to_container(config.hydra.sweeper.params, resolve=False)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        from r1lab.sweeper.sweeper import sweep

        compose = lambda overrides: self.loader.load_sweep_config(self.config, overrides)  # noqa: E731
        return sweep(self.settings, self.config, arguments, compose, self.launcher.launch)
