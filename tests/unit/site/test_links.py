"""Links of files in the repository, as links of pages."""

import pytest

from docs.tools.links import page_of, relinked


@pytest.mark.parametrize(
    ("page", "link", "to"),
    [
        ("index.md", "docs/client.md#errors", "client.md#errors"),
        ("index.md", "protos/registry/v1/registry.proto", "reference/registry.md"),
        ("index.md", "CHANGELOG.md", "changelog.md"),
        ("index.md", "LICENSE", "https://here/LICENSE"),
        ("client.md", "balancer.md", "balancer.md"),
        ("client.md", "../README.md", "index.md"),
        ("client.md", "../examples/demo.py", "https://here/examples/demo.py"),
        ("client.md", "../protos/registry/v1", "reference/registry.md"),
        ("client.md", "../protos/registry/xds/v1/ads.proto", "https://here/protos/registry/xds/v1/ads.proto"),
        ("zh/getting-started.md", "../client.md", "../client.md"),
        ("zh/getting-started.md", "../../protos/registry/v1/xds.proto", "../reference/xds.md"),
        ("reference/registry.md", "../security.md", "../security.md"),
        ("reference/registry.md", "xds.md#XdsClient", "xds.md#XdsClient"),
        ("client.md", "#errors", "#errors"),
        ("client.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("client.md", "mailto:a@example.org", "mailto:a@example.org"),
    ],
)
def test_a_link_leads_where_it_led(page: str, link: str, to: str) -> None:
    assert relinked(f"See [it]({link}), and ![a picture]({link}).", page, "https://here") == (
        f"See [it]({to}), and ![a picture]({to})."
    )


def test_code_is_left_alone() -> None:
    code = "```python\ncalls[it](../x)\n```\n"
    assert relinked(f"[a](../x)\n\n{code}\n[b](../y)", "client.md", "https://here") == (
        f"[a](https://here/x)\n\n{code}\n[b](https://here/y)"
    )


def test_what_is_no_page() -> None:
    assert page_of("registry_server/server.py") is None
