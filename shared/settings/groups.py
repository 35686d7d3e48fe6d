"""Groups of settings, by what people want to do; docs/configuration.md and .env.example list settings by them."""

from enum import StrEnum


class Group(StrEnum):
    """Annotates a setting with the group that documents list it in, in this order."""

    START = "Start here"
    MODELS = "Choose models"
    NETWORK = "Serve a network safely"
    JOB_LIMITS = "Limit images and jobs"
    TRAFFIC_LIMITS = "Limit traffic"
    STORAGE = "Store images and jobs"
    WEBHOOKS = "Send webhooks and fetch images"
    CLOUD = "Use Black Forest Labs"
    PERFORMANCE = "Tune performance"
    OPERATIONS = "Operate the service"
    REDIS = "Connect to Redis"
