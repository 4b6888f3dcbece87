//! The keys of the document. FEATURES rows 46 to 59; the names of cloud-init's keys are those of its reference
//! (<https://docs.cloud-init.io/en/latest/reference/modules.html>).

use super::forms::*;
use super::keys::{Key, Kind, Table, aliased, key};
use super::kubesolo::KUBESOLO;

/// The whole document.
pub(super) static DOCUMENT: Table = Table {
    what: "the document",
    keys: &[
        key(
            "hostname",
            Kind::Text(HOSTNAME),
            "Host name, and so the name of the Kubernetes node (RFC 1123, lower case).",
        ),
        key(
            "fqdn",
            Kind::Text(DOMAIN),
            "Fully qualified domain name; its first label is the host name when `hostname` is not stated.",
        ),
        key("network", Kind::Network, "The network. Not stated: DHCPv4 on every Ethernet interface."),
        key("ntp", Kind::Section(&NTP), "Time servers."),
        key("kubesolo", Kind::Section(&KUBESOLO), "Flags of KubeSolo, by their names without the dashes."),
        aliased(
            "ssh_authorized_keys",
            &["ssh-authorized-keys"],
            Kind::List(&Kind::Text(SSH_KEY)),
            "Public keys that may log in as root, where the image has an SSH server.",
        ),
        key("write_files", Kind::List(&Kind::Section(&WRITE_FILE)), "Files to write."),
        aliased("ca_certs", &["ca-certs"], Kind::Section(&CA_CERTS), "Certificate authorities."),
        key("metrics", Kind::Section(&METRICS), "The node's metrics endpoint."),
        key("kubeconfig", Kind::Section(&KUBECONFIG), "Serving the administrator's kubeconfig over HTTP."),
        key("updates", Kind::Section(&UPDATES), "Updates of the operating system."),
        key(
            "install",
            Kind::Section(&INSTALL),
            "Installs to a disk when the system runs from an ISO image; has no effect on an installed system.",
        ),
    ],
    unsupported: UNSUPPORTED,
    required: &[],
};

static NTP: Table = Table {
    what: "ntp",
    keys: &[
        key("enabled", Kind::Boolean, "Whether the clock is set from the network (default true)."),
        key("servers", Kind::Texts(HOST), "Servers, tried in order."),
        key("pools", Kind::Texts(HOST), "Pools of servers, tried after the servers."),
    ],
    unsupported: &["ntp_client", "config", "peers", "allow"],
    required: &[],
};

static WRITE_FILE: Table = Table {
    what: "write_files",
    keys: &[
        key("path", Kind::Text(PATH), "Where the file is written."),
        key("content", Kind::Text(ANY), "What is in it (default nothing)."),
        key(
            "encoding",
            Kind::Choice(&[
                "text/plain",
                "b64",
                "base64",
                "gz",
                "gzip",
                "gz+base64",
                "gzip+base64",
                "gz+b64",
                "gzip+b64",
            ]),
            "How `content` is written: `text/plain` (default), `b64` or `base64`. The compressed forms are refused.",
        ),
        key("permissions", Kind::Permissions, "Permission bits in octal, in quotes: \"0644\" (default)."),
        key("owner", Kind::Text(OWNER), "User and group: \"root:root\" (default) or numbers."),
        key("append", Kind::Boolean, "Add the content at the end of a file that is there (default false: replace it)."),
    ],
    unsupported: &["defer", "source"],
    required: &["path"],
};

static CA_CERTS: Table = Table {
    what: "ca_certs",
    keys: &[
        key("trusted", Kind::List(&Kind::Text(CERTIFICATES)), "Certificates that are trusted beside the image's, PEM."),
        aliased(
            "remove_defaults",
            &["remove-defaults"],
            Kind::Boolean,
            "Whether the image's own certificates are no longer trusted (default false).",
        ),
    ],
    unsupported: &[],
    required: &[],
};

static METRICS: Table = Table {
    what: "metrics",
    keys: &[
        key("enabled", Kind::Boolean, "Whether metrics are served (default true)."),
        key("listen", Kind::Text(LISTEN), "Address and port (default :9100)."),
    ],
    unsupported: &[],
    required: &[],
};

static KUBECONFIG: Table = Table {
    what: "kubeconfig",
    keys: &[
        key("enabled", Kind::Boolean, "Whether the kubeconfig is served (default false)."),
        key("listen", Kind::Text(LISTEN), "Address and port (default :8080)."),
        key(
            "duration",
            Kind::Duration,
            "How long it is served once there is one: seconds, or a number with s, m, h or d (default 10m; 0: no limit).",
        ),
        key("fetches", Kind::Integer { min: 0, max: 1_000_000 }, "How often it can be fetched (default 0: no limit)."),
        key("token", Kind::Secret(TOKEN), "What the caller must send as `Authorization: Bearer TOKEN`."),
    ],
    unsupported: &[],
    required: &[],
};

static INSTALL: Table = Table {
    what: "install",
    keys: &[
        key("disk", Kind::Text(DISK), "The disk: a path below /dev, or auto when the machine has only one."),
        key("wipe", Kind::Boolean, "Whether what the disk holds may be overwritten (default false)."),
        key(
            "then",
            Kind::Choice(&["poweroff", "reboot", "live"]),
            "What follows: poweroff (default), reboot, or live, which goes on with the system on the medium.",
        ),
    ],
    unsupported: &[],
    required: &["disk"],
};

static UPDATES: Table = Table {
    what: "updates",
    keys: &[
        key(
            "automatic",
            Kind::Boolean,
            "Whether the node installs updates and restarts by itself (default the image's).",
        ),
        key(
            "source",
            Kind::Secret(UPDATE_SOURCE),
            "Where releases come from: https://HOST/PATH, http://HOST/PATH or oci://HOST/REPOSITORY (default the image's).",
        ),
        key("channel", Kind::Text(CHANNEL), "The channel to follow (default the image's)."),
        key(
            "interval",
            Kind::Duration,
            "Time between two looks: seconds, or a number with s, m, h or d, at least 1m (default the image's).",
        ),
        key(
            "windows",
            Kind::List(&Kind::Section(&UPDATE_WINDOW)),
            "When the node may install and restart by itself; an empty list is always (default the image's).",
        ),
        key("bandwidth", Kind::Rate, "Most bytes per second that are fetched, as in 2MiB/s (default no limit)."),
        key("username", Kind::Text(USERNAME), "User name for the source."),
        key("password", Kind::Secret(PASSWORD), "Password for the source; without a user name, a bearer token."),
        key("proxy", Kind::Secret(PROXY), "Proxy for the source: http://HOST:PORT."),
    ],
    // What cloud-init has under this key: when it applies network configuration again.
    unsupported: &["network", "policy"],
    required: &[],
};

static UPDATE_WINDOW: Table = Table {
    what: "a window of updates",
    keys: &[
        key("days", Kind::Texts(DAYS), "Days on which it opens: sat, mon-fri, a list of them, or daily (default)."),
        key("start", Kind::Text(START), "Local time at which it opens, as in 02:00."),
        key("length", Kind::Text(LENGTH), "How long it stays open: 90m, 3h or 1h30m, at most 7d."),
        aliased(
            "time-zone",
            &["time_zone", "timezone"],
            Kind::Text(TIME_ZONE),
            "UTC (default), an offset as in +02:00, a name as in Europe/Berlin, or a POSIX TZ string.",
        ),
    ],
    unsupported: &[],
    required: &["start", "length"],
};

/// Says where a key belongs that is unknown in `table` and known in a section of the document, or the other way round.
pub(super) fn elsewhere(name: &str, table: &Table) -> Option<String> {
    let has = |key: &&Key| matches!(key.kind, Kind::Section(section) if section.find(name).is_some());
    if std::ptr::eq(table, &DOCUMENT) {
        return DOCUMENT.keys.iter().find(has).map(|section| format!("{name} belongs under {}", section.name));
    }
    DOCUMENT.find(name).map(|key| format!("{} belongs at the beginning of a line, outside of {}", key.name, table.what))
}

/// Keys of cloud-init (and of the distributions' tools that read the same documents) that have no effect here.
static UNSUPPORTED: &[&str] = &[
    "allow_public_ssh_keys",
    "allow_userdata",
    "ansible",
    "apk_repos",
    "apt",
    "apt_pipelining",
    "apt_preserve_sources_list",
    "apt_reboot_if_required",
    "apt_update",
    "apt_upgrade",
    "authkey_hash",
    "autoinstall",
    "bootcmd",
    "byobu_by_default",
    "chef",
    "chpasswd",
    "cloud_config_modules",
    "cloud_final_modules",
    "cloud_init_modules",
    "create_hostname_file",
    "datasource",
    "datasource_list",
    "debug",
    "device_aliases",
    "disable_ec2_metadata",
    "disable_root",
    "disable_root_opts",
    "disk_setup",
    "drivers",
    "fan",
    "final_message",
    "fs_setup",
    "groups",
    "growpart",
    "grub-dpkg",
    "grub_dpkg",
    "jinja2",
    "keyboard",
    "landscape",
    "launch-index",
    "locale",
    "locale_configfile",
    "lxd",
    "manage_etc_hosts",
    "manage_resolv_conf",
    "mcollective",
    "merge_how",
    "merge_type",
    "migrate",
    "mount_default_fields",
    "mounts",
    "no_ssh_fingerprints",
    "output",
    "package_reboot_if_required",
    "package_update",
    "package_upgrade",
    "packages",
    "password",
    "phone_home",
    "power_state",
    "prefer_fqdn_over_hostname",
    "preserve_hostname",
    "puppet",
    "random_seed",
    "reporting",
    "resize_rootfs",
    "resolv_conf",
    "rh_subscription",
    "rh_subscription_manager",
    "rsyslog",
    "runcmd",
    "salt_minion",
    "snap",
    "spacewalk",
    "ssh",
    "ssh_deletekeys",
    "ssh_fp_console_blacklist",
    "ssh_genkeytypes",
    "ssh_import_id",
    "ssh_key_console_blacklist",
    "ssh_keys",
    "ssh_publish_hostkeys",
    "ssh_pwauth",
    "ssh_quiet_keygen",
    "sudo",
    "swap",
    "syslog_fix_perms",
    "system_info",
    "timezone",
    "ubuntu_advantage",
    "ubuntu_pro",
    "unverified_modules",
    "user",
    "users",
    "vendor_data",
    "version",
    "wireguard",
    "yum_repo_dir",
    "yum_repos",
    "zypper",
];
