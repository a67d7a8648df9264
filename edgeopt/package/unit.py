"""A systemd unit that serves a bundle, with everything closed that it does not need (systemd.exec(5))."""

from __future__ import annotations

from edgeopt.package.container import PORT
from edgeopt.package.contents import Files, Source
from edgeopt.package.kserve import resource_name
from edgeopt.runtime.session import known_target

_MARGIN = 2.0
"""Memory that the service may take over what was measured, before it is ended and started again."""


def service(source: Source) -> Files:
    """Return the unit. The bundle lies at /var/lib/edgeopt, or in the slot that `edgeopt install` keeps there."""
    manifest = source.bundle.manifest
    variants = manifest.variants if source.asked is None else (source.bundle.variant(source.asked),)
    accelerated = any((target := known_target(each.target)) is None or target.accelerated for each in variants)
    variant = "" if source.asked is None else f" --variant {source.asked}"
    name = resource_name(source.name)
    path = f"/var/lib/edgeopt/{source.folder}"
    memory = _memory_mib(source)
    text = f"""\
# {source.about}.
#   sudo install -d /var/lib/edgeopt && sudo cp -r {source.folder} /var/lib/edgeopt/
#   sudo cp edgeopt-{name}.service /etc/systemd/system/ && sudo systemctl enable --now edgeopt-{name}
[Unit]
Description=edgeopt: {source.name} over HTTP on port {PORT}
After=network.target
# A damaged bundle does not get better by trying for ever.
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=exec
ExecStart=/opt/edgeopt/bin/edgeopt serve {path} --port {PORT}{variant}
DynamicUser=yes
StateDirectory=edgeopt-state
CacheDirectory=edgeopt
Environment=EDGEOPT_CACHE=/var/cache/edgeopt EDGEOPT_STATE=/var/lib/edgeopt-state PYTHONUNBUFFERED=1
# The first start on a GPU builds engines, which may take minutes.
TimeoutStartSec={"30min" if accelerated else "2min"}
# SIGTERM lets running requests end, and is no failure.
SuccessExitStatus=143
TimeoutStopSec=30
Restart=on-failure
RestartSec=5
{f"MemoryMax={memory}M" if memory else "# MemoryMax= is open: nobody measured this bundle on a machine of this kind."}
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices={"no" if accelerated else "yes"}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""
    return {f"edgeopt-{name}.service": text.encode(), **source.bundle_files()}


def _memory_mib(source: Source) -> int:
    """Return the memory that the service may take, in MiB; 0 if no variant was measured on this kind of machine."""
    variants = source.bundle.manifest.variants
    found = [measured.latency for each in variants if (measured := source.measured(each)) is not None]
    return round(_MARGIN * max((each.peak_memory_mib for each in found if each is not None), default=0.0))
