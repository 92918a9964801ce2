"""What is written for people from the declarations is as the declarations are."""

import flows
from commands import reference
from commands.demo_stage import PORTS, connector_settings

FLOWS = flows.discover()


def test_env_example_is_made_of_the_declarations() -> None:
    assert reference.ENV_EXAMPLE.read_text() == reference.env_example(FLOWS), "call `make reference`"


def test_the_readme_lists_the_flows_as_they_are_declared() -> None:
    text = reference.README.read_text()
    assert reference.readme(text, FLOWS) == text, "call `make reference`"
    assert all(f"| `{name}` |" in text for name in FLOWS)


def test_every_setting_of_a_connector_is_described() -> None:
    assert [setting.name for flow in FLOWS.values() for setting in flow.settings if not setting.description] == []


def test_the_demo_switches_every_connector_on() -> None:
    """A new connector needs a stand-in, or the demo does not show it."""
    given = connector_settings(PORTS)
    for flow in FLOWS.values():
        for connector in flow.connectors:
            assert given.get(connector.address.name), f"the demo does not configure {flow.name}/{connector.name}"
            for choice in connector.needs:
                assert any(given.get(setting.name) or setting.default for setting in choice)
    declared = {setting.name for flow in FLOWS.values() for setting in flow.settings}
    assert given.keys() <= declared
