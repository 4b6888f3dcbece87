//! Which parameters the kernel command line may have: one set of rules for the check of the manifest, which names the
//! place in the file, and for the proof of the image, which looks at what is written.

/// Parameters that the kernel, or what reads its command line, takes several times: each counts (Linux
/// `Documentation/admin-guide/kernel-parameters.txt`; kmod, `modprobe.d(5)`).
const REPEATABLE: [&str; 12] = [
    "acpi_osi",
    "console",
    "dyndbg",
    "earlycon",
    "earlyprintk",
    "hugepages",
    "hugepagesz",
    "initcall_blacklist",
    "memmap",
    "modprobe.blacklist",
    "pci",
    "video",
];

/// Parameters that would take the boot away from the initramfs, and why they must not be given.
const FORBIDDEN: [(&str, &str); 7] = [
    ("root", "the initramfs finds the root itself"),
    ("rootfstype", "the initramfs finds the root itself"),
    ("rootflags", "the initramfs finds the root itself"),
    ("init", "the initramfs starts the root's init itself"),
    ("rdinit", "the initramfs has its own init"),
    ("initrd", "the boot loader gives the initramfs"),
    ("noinitrd", "the initramfs is what mounts the root"),
];

/// Returns the name of a parameter.
pub fn name(parameter: &str) -> &str {
    parameter.split_once('=').map_or(parameter, |(name, _)| name)
}

/// Says why a parameter must not be given, if so.
pub fn forbidden(name: &str) -> Option<&'static str> {
    FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name).map(|(_, reason)| *reason)
}

/// Returns what no two parameters may have in common: the whole of one that may be repeated with other values, else its
/// name.
pub fn identity(parameter: &str) -> String {
    let name = name(parameter);
    // Linux `kernel/params.c`, `dash2underscore`: the two are the same in names.
    let plain = name.replace('-', "_");
    let repeatable = REPEATABLE.contains(&name) || plain.ends_with(".dyndbg");
    if repeatable { parameter.to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_counts_each_time_may_be_repeated() {
        for (one, two) in [("console=tty0", "console=ttyS0"), ("kvm.dyndbg=+p", "kvm.dyndbg=-p"), ("quiet", "debug")] {
            assert_ne!(identity(one), identity(two), "{one} {two}");
        }
        // The kernel takes the last of these.
        for (one, two) in [("panic=1", "panic=2"), ("clocksource=a", "clocksource=b"), ("a-b=1", "a_b"), ("pci", "pci")]
        {
            assert_eq!(identity(one), identity(two), "{one} {two}");
        }
        assert_eq!((forbidden("init"), forbidden("initcall_debug")).1, None);
        assert!(forbidden("init").is_some());
    }
}
