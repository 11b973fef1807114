"""What mkdocs does beside its own: README and CHANGELOG as pages, the .proto files as a reference, links out of docs/.

What stands in docs/ is to be read where it lies in the repository as well, so its links are those of the files.
"""

import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.tools import links, manual

ROOT = Path(__file__).parents[2]
CHINESE = "zh/"
CHANGES = links.PAGES["CHANGELOG.md"]
WITH_PROTOS = "Every language"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A page in the navigation for each .proto file, the registry's own first."""
    names = sorted((path.stem for path in (ROOT / links.PROTOS).glob("*.proto")), key=lambda it: (it != "registry", it))
    for section in config.nav or []:
        if isinstance(section, dict) and WITH_PROTOS in section:
            section[WITH_PROTOS] += [{f"{name}.proto": f"{links.REFERENCE}/{name}.md"} for name in names]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = {page: (ROOT / path).read_text() for path, page in links.PAGES.items()}
    made[CHANGES] = f"---\nsearch:\n  boost: 0.1\n---\n{made[CHANGES]}"  # it has a word of everything
    made |= {f"{links.REFERENCE}/{name}": text for name, text in manual.pages(described()).items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def described() -> list[FileDescriptorProto]:
    """The .proto files of the API, with their comments. Raises RuntimeError if protoc refuses one."""
    root = ROOT / "protos"
    names = sorted(str(path.relative_to(root)) for path in (ROOT / links.PROTOS).glob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        places = [f"-I{root}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
        if protoc.main(["protoc", *places, "--include_source_info", f"--descriptor_set_out={out.name}", *names]):
            raise RuntimeError("protoc refuses the .proto files")
        return list(FileDescriptorSet.FromString(Path(out.name).read_bytes()).file)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return links.relinked(markdown, page.file.src_uri, config.extra["repository"])


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Browsers and screen readers go by what a page says its language is."""
    chinese = page.file.src_uri.startswith(CHINESE)
    return output.replace('<html lang="en"', '<html lang="zh-CN"', 1) if chinese else output
