"""Commands about who made a bundle, who may read it, and what it is made of."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeopt.cli.options import bundle
from edgeopt.cli.output import echo, print_json, printable
from edgeopt.errors import storage_errors
from edgeopt.files import write_atomically


@click.command()
@bundle
@click.option(
    "--key",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Private key, PEM: P-256, P-384 or P-521, of mode 0600.",
)
@click.option(
    "--passphrase-file",
    "passphrase",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the passphrase of an encrypted key; its first line counts.",
)
@click.option(
    "--release",
    type=click.IntRange(min=0),
    help="Number of this release. A device that trusts keys runs none older than the newest it has run. "
    "Default: the number that the bundle has.",
)
@click.option(
    "--provenance",
    "builder",
    metavar="BUILDER",
    help="Also state from what the bundle was built (SLSA provenance), and that the builder of this URI did it, as "
    "https://ci.example.com/edgeopt.",
)
def sign(bundle: Path, key: Path, passphrase: Path | None, release: int | None, builder: str | None) -> None:
    """Sign a bundle, so that devices can tell who made it.

    The signature is a file in the bundle, model.sig, in the format of OpenSSF's model-signing, whose own command
    verifies it as well. It covers the manifest and every file but measured.json, which holds what devices measure.

    A device opens signed bundles only once a public key lies in /etc/edgeopt/trusted (or $EDGEOPT_TRUSTED).

    With --provenance a second file, provenance.sigstore.json, names the recipe, the data sets, the model's files and
    the libraries by digest or version, and nothing of this machine. Without, an earlier one is removed.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.trust.keys import read_private, read_secret

    private = read_private(key, None if passphrase is None else read_secret(passphrase))
    signed = Bundle.open(bundle).sign(private, release=release, builder=builder)
    echo(
        printable(
            f"signed {bundle}: release {signed.manifest.release}, {len(signed.manifest.files) + 1} files. "
            f"Check it with: edgeopt verify {bundle} --public-key KEY.pub"
        )
    )


@click.command()
@bundle
@click.option(
    "--to",
    "recipients",
    multiple=True,
    required=True,
    metavar="AGE_KEY",
    help="Public age key of a device (age1…), as age-keygen -y prints it; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the sealed bundle. Default: NAME.sealed.edgeopt beside the bundle.",
)
def seal(bundle: Path, recipients: tuple[str, ...], out: Path | None) -> None:
    """Encrypt a copy of a bundle for chosen devices.

    Engines and golden arrays are encrypted (AES-256-GCM), with a key that only the named devices can unwrap
    (age, X25519). Labels, the recipe and all results stay readable. Sign the sealed bundle afterwards, not before.

    A device opens it with its identity, the file that age-keygen wrote: /etc/edgeopt/identity, $EDGEOPT_IDENTITY,
    or systemd's credential edgeopt.identity. Nothing is written to its disk in the clear. Who is root there, and
    the memory of a GPU, see the network all the same.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.report.figures import counted

    path = bundle.with_suffix(f".sealed{bundle.suffix}") if out is None else out
    sealed = Bundle.open(bundle).seal(path, recipients)
    assert sealed.manifest.sealed is not None
    files, devices = len(sealed.manifest.sealed.files), len(recipients)
    echo(
        printable(f"wrote {path}: {counted(files, 'file', 'files')} sealed for {counted(devices, 'device', 'devices')}")
    )


@click.command()
@bundle
@click.option(
    "--license",
    "license_id",
    metavar="SPDX",
    help="Licence of the weights, as Apache-2.0 or 'MIT AND CC-BY-4.0', which no bundle knows.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write. Default: standard output.")
def sbom(bundle: Path, license_id: str | None, out: Path | None) -> None:
    """Write a bundle's bill of materials (CycloneDX 1.6).

    Lists the engines and data sets by digest, the libraries that made and run them, and a model card with every
    variant's accuracy. It holds no path, user or host name.
    """
    from edgeopt.bundle import Bundle
    from edgeopt.report.materials import bill_of_materials

    found = bill_of_materials(Bundle.open(bundle), license_id=license_id)
    if out is None:
        print_json(found)
        return
    with storage_errors(out):
        write_atomically(out, json.dumps(found, indent=2, ensure_ascii=False).encode() + b"\n")
    echo(printable(f"wrote {out}: {len(found['components'])} components"))


COMMANDS = (sign, seal, sbom)
