use super::super::index::Index;
use super::super::packages::Packages;
use super::super::testing::stanza;
use super::*;

/// Suites with their packages: name, version, architecture, more fields.
type Table<'a> = &'a [(&'a str, &'a [(&'a str, &'a str, &'a str, &'a str)])];

fn archive(table: Table<'_>) -> Archive {
    let index = |(suite, packages): &(&str, &[(&str, &str, &str, &str)])| {
        let text: String = packages
            .iter()
            .map(|(name, version, architecture, fields)| {
                let fields: String =
                    fields.split(';').filter(|field| !field.is_empty()).map(|f| format!("{f}\n")).collect();
                stanza(name, version, architecture, &fields)
            })
            .collect();
        let packages = Packages::read(text.as_bytes()).unwrap();
        Index { repository: "debian".to_owned(), suite: (*suite).to_owned(), packages }
    };
    Archive { indexes: table.iter().map(index).collect() }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn run_with(archive: &Archive, requests: &str, recommends: bool, exclude: &str) -> Result<String, String> {
    let exclude = words(exclude);
    let options = Options { recommends, exclude: &exclude };
    let universe = Universe::new(archive, "amd64");
    let mut requests = words(requests);
    let forward = universe.resolve(&requests, &options);
    requests.reverse();
    assert_eq!(universe.resolve(&requests, &options), forward, "the order of requests matters");
    let show = |package: Pinned| match package.architecture.as_str() {
        "amd64" => format!("{}={}", package.name, package.version),
        other => format!("{}:{other}={}", package.name, package.version),
    };
    match forward {
        Ok(packages) => Ok(packages.into_iter().map(show).collect::<Vec<_>>().join(" ")),
        Err(error) => Err(error.to_string()),
    }
}

fn run(table: Table<'_>, requests: &str) -> Result<String, String> {
    run_with(&archive(table), requests, false, "")
}

#[test]
fn closure_alternatives_and_virtual_packages() {
    let table: Table<'_> = &[(
        "trixie",
        &[
            ("aa", "1", "amd64", "Depends: bb (>= 1), cc | dd;Pre-Depends: pre"),
            ("bb", "2", "amd64", "Depends: aa"),
            ("cc", "1", "amd64", ""),
            ("dd", "1", "amd64", ""),
            ("pre", "1", "all", "Recommends: cc, missing"),
            ("missing-first", "1", "amd64", "Depends: nothing | dd"),
            ("needs-virtual", "1", "amd64", "Depends: mta"),
            ("needs-versioned", "1", "amd64", "Depends: mta (>= 2)"),
            ("exim", "1", "amd64", "Provides: mta;Priority: optional"),
            ("postfix", "1", "amd64", "Provides: mta (= 3);Priority: standard"),
            ("ssmtp", "1", "amd64", "Provides: mta (= 1);Priority: optional"),
            ("real-too", "1", "amd64", "Depends: both"),
            ("both", "1", "amd64", ""),
            ("provider", "1", "amd64", "Provides: both;Priority: required"),
        ],
    )];
    for (requests, expected) in [
        ("aa", "aa=1 bb=2 cc=1 pre:all=1"),
        ("aa dd", "aa=1 bb=2 dd=1 pre:all=1"),
        ("missing-first", "dd=1 missing-first=1"),
        ("needs-virtual", "needs-virtual=1 postfix=1"),
        ("needs-virtual ssmtp", "needs-virtual=1 ssmtp=1"),
        ("needs-versioned exim", "exim=1 needs-versioned=1 postfix=1"),
        ("real-too", "both=1 real-too=1"),
        ("real-too provider", "provider=1 real-too=1"),
        ("both aa both", "aa=1 bb=2 both=1 cc=1 pre:all=1"),
    ] {
        assert_eq!(run(table, requests).as_deref(), Ok(expected), "{requests}");
    }
}

#[test]
fn recommends_and_exclusions() {
    let archive = archive(&[(
        "trixie",
        &[
            ("aa", "1", "amd64", "Depends: bb | cc, ee;Recommends: rr (>= 2), ss, no-such"),
            ("bb", "1", "amd64", "Depends: deep"),
            ("cc", "1", "amd64", ""),
            ("deep", "1", "amd64", ""),
            ("ee", "1", "amd64", ""),
            ("rr", "1", "amd64", ""),
            ("ss", "1", "amd64", "Depends: vv"),
            ("tt", "1", "amd64", "Provides: vv"),
        ],
    )]);
    for (recommends, exclude, expected) in [
        (false, "", "aa=1 bb=1 deep=1 ee=1"),
        (true, "", "aa=1 bb=1 deep=1 ee=1 ss=1 tt=1"),
        (false, "bb", "aa=1 ee=1"),
        (false, "cc", "aa=1 ee=1"),
        (false, "deep ee", "aa=1 bb=1"),
        (true, "tt", "aa=1 bb=1 deep=1 ee=1 ss=1"),
    ] {
        let found = run_with(&archive, "aa", recommends, exclude);
        assert_eq!(found.as_deref(), Ok(expected), "recommends {recommends}, exclude {exclude}");
    }
}

#[test]
fn the_newest_version_of_all_suites_wins_unless_another_is_asked_for() {
    let table: Table<'_> = &[
        (
            "trixie",
            &[
                ("kernel", "6.12.107-1", "amd64", ""),
                ("tool", "1", "amd64", "Depends: kernel (= 6.12.107-1)"),
                ("same", "1", "amd64", ""),
            ],
        ),
        ("trixie-security", &[("kernel", "6.12.117-1", "amd64", ""), ("same", "1", "amd64", "")]),
    ];
    for (requests, expected) in [
        ("kernel", "kernel=6.12.117-1"),
        ("kernel=6.12.107-1", "kernel=6.12.107-1"),
        ("kernel/trixie", "kernel=6.12.107-1"),
        ("kernel kernel/trixie", "kernel=6.12.107-1"),
        ("tool", "kernel=6.12.107-1 tool=1"),
        ("same same/trixie-security", "same=1"),
    ] {
        assert_eq!(run(table, requests).as_deref(), Ok(expected), "{requests}");
    }
    for (requests, error) in [
        ("kernel=7", "no package kernel=7; there is kernel 6.12.117-1 (trixie-security), kernel 6.12.107-1 (trixie)"),
        ("kernel=6.12.107-1 kernel=6.12.117-1", "kernel is requested as kernel 6.12.107-1 and as kernel 6.12.117-1"),
        (
            "tool kernel/trixie-security",
            "tool 1 needs kernel (= 6.12.107-1), which cannot be had: kernel 6.12.117-1 is chosen (kernel 6.12.117-1)",
        ),
    ] {
        assert_eq!(run(table, requests), Err(error.to_owned()), "{requests}");
    }
}

#[test]
fn architectures() {
    let table: Table<'_> = &[
        (
            "trixie",
            &[
                ("aa", "1", "amd64", "Depends: lib, interp:any, tool, data"),
                ("lib", "1", "amd64", ""),
                ("interp", "1", "amd64", "Multi-Arch: allowed"),
                ("tool", "1", "amd64", "Multi-Arch: foreign"),
                ("data", "1", "all", ""),
                ("explicit", "1", "amd64", "Depends: lib:arm64"),
                ("only-arm", "1", "amd64", "Depends: arm-lib"),
            ],
        ),
        (
            "trixie",
            &[
                ("aa", "1", "arm64", "Depends: lib, interp:any, tool, data"),
                ("lib", "1", "arm64", ""),
                ("tool", "1", "arm64", "Multi-Arch: foreign"),
                ("data", "1", "all", ""),
                ("arm-lib", "1", "arm64", ""),
            ],
        ),
    ];
    for (requests, expected) in [
        ("aa", "aa=1 data:all=1 interp=1 lib=1 tool=1"),
        ("aa:arm64", "aa:arm64=1 data:all=1 interp=1 lib:arm64=1 tool:arm64=1"),
        ("aa:arm64 tool", "aa:arm64=1 data:all=1 interp=1 lib:arm64=1 tool=1"),
        ("explicit", "explicit=1 lib:arm64=1"),
        ("aa aa:arm64", "aa=1 aa:arm64=1 data:all=1 interp=1 lib=1 lib:arm64=1 tool=1"),
    ] {
        assert_eq!(run(table, requests).as_deref(), Ok(expected), "{requests}");
    }
    assert_eq!(
        run(table, "only-arm"),
        Err("only-arm 1 needs arm-lib, which cannot be had: there is arm-lib:arm64 1 (trixie)".to_owned())
    );
}

#[test]
fn conflicts_name_both_packages() {
    let table: Table<'_> = &[(
        "trixie",
        &[
            ("aa", "1", "amd64", "Depends: bb, cc"),
            ("bb", "1", "amd64", "Conflicts: cc (<< 2)"),
            ("cc", "1", "amd64", ""),
            ("dd", "1", "amd64", "Breaks: virt"),
            ("ee", "1", "amd64", "Provides: virt"),
            ("ff", "1", "amd64", "Conflicts: virt;Provides: virt"),
            ("gg", "1", "amd64", "Conflicts: virt (<< 2)"),
            ("hh", "1", "amd64", "Conflicts: bb (>> 1), ee:arm64"),
        ],
    )];
    for (requests, error) in [
        ("aa", "bb 1 and cc 1 cannot be together: bb 1 conflicts with cc (<< 2) (chosen: aa 1 -> bb 1; aa 1 -> cc 1)"),
        ("dd ee", "dd 1 and ee 1 cannot be together: dd 1 breaks virt (chosen: dd 1; ee 1)"),
        ("ff ee", "ff 1 and ee 1 cannot be together: ff 1 conflicts with virt (chosen: ff 1; ee 1)"),
    ] {
        assert_eq!(run(table, requests), Err(error.to_owned()), "{requests}");
    }
    assert_eq!(run(table, "ff").as_deref(), Ok("ff=1"));
    assert_eq!(run(table, "ee gg hh").as_deref(), Ok("ee=1 gg=1 hh=1"));
}

#[test]
fn what_cannot_be_met_is_explained() {
    let table: Table<'_> = &[(
        "trixie",
        &[
            ("containerd", "1.7", "amd64", "Depends: runc (>= 1.1)"),
            ("runc", "1.1", "amd64", "Depends: libseccomp (>= 9) | other (= 1)"),
            ("libseccomp", "2.6", "amd64", ""),
            ("broken", "1", "amd64", "Depends: a b"),
            ("typo", "1", "amd64", "Depends: libsecomp"),
            ("mta-a", "1", "amd64", "Provides: mta"),
            ("mta-b", "1", "amd64", "Provides: mta"),
        ],
    )];
    for (requests, error) in [
        (
            "containerd",
            "containerd 1.7 -> runc 1.1 needs libseccomp (>= 9) | other (= 1), which cannot be had: \
             there is libseccomp 2.6 (trixie); no package other in trixie",
        ),
        ("typo", "typo 1 needs libsecomp, which cannot be had: no package libsecomp in trixie (similar: libseccomp)"),
        ("contanerd", "no package contanerd in trixie (similar: containerd)"),
        ("zzz", "no package zzz in trixie"),
        ("mta", "mta is a virtual package, provided by mta-a, mta-b"),
        ("broken", "broken 1, Depends: \"a b\" is not a relation to a package"),
        ("run/c/x", "no package run/c/x in trixie (similar: runc)"),
        ("a=", "\"a=\" is not a package: expected NAME, NAME:ARCH, NAME=VERSION or NAME/SUITE"),
    ] {
        assert_eq!(run(table, requests), Err(error.to_owned()), "{requests}");
    }
}
