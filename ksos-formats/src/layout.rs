//! Names and identifiers of the disk layout that the composer writes and the node looks for.

/// GPT type GUID of an EFI system partition (UEFI 2.10, table 5-7).
pub const ESP_TYPE_GUID: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/// GPT type GUID of Linux file system data (Discoverable Partitions Specification).
pub const LINUX_TYPE_GUID: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
/// GPT type GUID of a BIOS boot partition (GNU GRUB manual, "BIOS installation").
pub const BIOS_BOOT_TYPE_GUID: &str = "21686148-6449-6E6F-744E-656564454649";

/// Label of the EFI system partition.
pub const ESP_LABEL: &str = "KSOSEFI";
/// Label of system slot A.
pub const SLOT_A_LABEL: &str = "KSOSSYSA";
/// Label of system slot B.
pub const SLOT_B_LABEL: &str = "KSOSSYSB";
/// Label of the data partition.
pub const DATA_LABEL: &str = "KSOLODATA";

/// Kernel image inside a slot.
pub const SLOT_KERNEL: &str = "vmlinuz";
/// Initramfs inside a slot.
pub const SLOT_INITRAMFS: &str = "kubesolo-os.gz";
/// Root file system image inside a slot (SquashFS, with a dm-verity hash tree behind it).
pub const SLOT_ROOT: &str = "root.squashfs";
/// Image metadata inside a slot.
pub const SLOT_METADATA: &str = "image.json";

/// The [`crate::boot::BootConfig`] document inside the initramfs.
pub const BOOT_CONFIG: &str = "/ksos/boot.json";
/// The [`crate::runtime::RuntimeConfig`] document inside the root file system.
pub const RUNTIME_CONFIG: &str = "/usr/lib/ksos/runtime.json";
/// The multi-call runtime binary inside the root file system.
pub const RUNTIME_BINARY: &str = "/usr/lib/ksos/ksos-runtime";

/// Kernel parameter with the slot that the boot loader chose: `a` or `b`.
pub const PARAM_SLOT: &str = "ksos.slot";
/// Kernel parameter with the GPT partition GUID of the EFI system partition that the boot loader came from.
pub const PARAM_ESP: &str = "ksos.esp";
/// Kernel parameter that overrides the root mode: `slot` or `ram`.
pub const PARAM_ROOT: &str = "ksos.root";
/// Kernel parameter that makes the system run from a medium, by the name of the medium's volume.
pub const PARAM_LIVE: &str = "ksos.live";
/// Kernel parameter that installs from the medium: a disk (`/dev/...`), or `auto` when there is only one.
pub const PARAM_INSTALL: &str = "ksos.install";
/// Kernel parameter that lets the installer overwrite what a disk holds: `yes` or `no`.
pub const PARAM_INSTALL_FORCE: &str = "ksos.install.force";
/// Kernel parameter that says what follows the installation: `poweroff`, `reboot` or `live`.
pub const PARAM_INSTALL_THEN: &str = "ksos.install.then";
/// Kernel parameter that says what the runtime does when it cannot go on: `wait` or `reboot`.
pub const PARAM_EMERGENCY: &str = "ksos.emergency";
/// Kernel parameter about the hardware watchdog: `off`, or its timeout in seconds.
pub const PARAM_WATCHDOG: &str = "ksos.watchdog";
/// Kernel parameter that resets the node in this boot: `data` or `all`.
pub const PARAM_FACTORY_RESET: &str = "ksos.factory-reset";

/// The effective [`crate::config::NodeConfig`] of the running node as JSON, mode 0600. Written at stage 45.
pub const NODE_CONFIG: &str = "/run/ksos/config.json";
/// What the network is like, as JSON. Written by the network process.
pub const NETWORK_STATUS: &str = "/run/ksos/network.json";
/// Unix socket that accepts connections once the network is up, or there is no more waiting for it.
pub const NETWORK_SOCKET: &str = "/run/ksos/network.socket";
/// What `/etc/resolv.conf` leads to.
pub const RESOLV_CONF: &str = "/run/ksos/resolv.conf";
/// The image's default configuration, YAML as a site writes it. Optional.
pub const DEFAULT_CONFIG: &str = "/usr/lib/ksos/config.yaml";

/// The first key set that a node trusts ([`crate::update::KeySet`]), in the root file system. Without it there are no updates.
pub const UPDATE_KEYS: &str = "/usr/lib/ksos/update/keys.json";
/// Directory with the public keys (PEM) of `cosign` that a release in an OCI registry must be signed by. Optional.
pub const UPDATE_COSIGN_KEYS: &str = "/usr/lib/ksos/update/cosign";
/// The boot state as last read or written, as JSON. Written by the update process.
pub const BOOT_STATE: &str = "/run/ksos/bootstate.json";
/// What is known of updates, as JSON. Written by the update process.
pub const UPDATE_STATUS: &str = "/run/ksos/update.json";
/// What updates keep, below the mount point of the data partition.
pub const UPDATE_DATA: &str = "ksos/update";
