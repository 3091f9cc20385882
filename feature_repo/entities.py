"""What features are about. Every join key is a string: ids of other people's systems are names, not numbers."""

from feast import Entity, ValueType

restaurant = Entity(
    name="restaurant",
    join_keys=["restaurant_id"],
    value_type=ValueType.STRING,
    description="A restaurant that prepares orders.",
)
driver = Entity(
    name="driver",
    join_keys=["driver_id"],
    value_type=ValueType.STRING,
    description="A driver who delivers orders; often not assigned yet when an order is placed.",
)
customer = Entity(
    name="customer",
    join_keys=["customer_id"],
    value_type=ValueType.STRING,
    description="A person who orders.",
)
zone = Entity(
    name="zone",
    join_keys=["zone_id"],
    value_type=ValueType.STRING,
    description="A delivery zone of the city.",
)
