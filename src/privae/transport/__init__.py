"""The door to NVFlare: jobs, the kits of those who take part, and the components that carry bytes."""
