"""What is public of how a client came from a message's start to its change."""

from secagg.encodings.base import lora_factor
from secagg.rounds import round_steps
from secagg_attacks.views import Message, Public
from secagg_client.training import learning_rate_factor


def local_steps(public: Public, message: Message) -> range:
    """Which of the plan's steps are in a message: one round's, or all."""
    steps = public.plan.training.steps
    return range(steps) if message.number < 0 else round_steps(steps, message.number, public.rounds)


def rate_of(public: Public, message: Message, name: str) -> float:
    """The learning rates of a tensor's steps, added up: with SGD, how far a constant mean gradient takes it."""
    settings = public.plan.training
    peak = settings.learning_rate if lora_factor(name) else (settings.head_learning_rate or settings.learning_rate)
    return peak * sum(learning_rate_factor(settings, step) for step in local_steps(public, message))


def is_one_gradient(public: Public, message: Message) -> bool:
    """Whether a change is the rate times the clients' mean gradient, but for rounding: one plain step of SGD."""
    settings = public.plan.training
    return settings.epsilon is None and settings.optimizer == "sgd" and len(local_steps(public, message)) == 1
