//! What `inspect` shows: sections of at most 80 columns, with a bar chart of what takes the space.

use std::fmt::Write as _;

use ksos_compose::effects::progress;
use ksos_compose::ops::inspect::{ArtifactInfo, Beside, Inspection, IsoInfo, PartitionInfo, ReleaseInfo, SystemInfo};
use ksos_compose::sbom::timestamp;

/// Columns of a line.
const WIDTH: usize = 80;
/// Columns of the longest bar.
const BAR: usize = 28;
/// Columns of the names before bars.
const NAME: usize = 24;
/// Entries of a list of files, directories or blobs that are shown.
const MOST: usize = 24;

/// Shows an inspection; `color` says whether the terminal takes it.
pub fn show(inspection: &Inspection, color: bool) -> String {
    let mut view = View { text: String::new(), color };
    view.head(inspection);
    view.partitions(inspection);
    inspection.iso.iter().for_each(|iso| view.iso(iso));
    inspection.release.iter().for_each(|release| view.release(release));
    inspection.artifact.iter().for_each(|artifact| view.artifact(artifact));
    inspection.systems.iter().for_each(|system| view.system(system));
    view.beside(&inspection.beside);
    if !inspection.faults.is_empty() {
        view.section("Not looked into", "");
        inspection.faults.iter().for_each(|fault| view.wrapped("", fault));
    }
    view.text
}

struct View {
    text: String,
    color: bool,
}

impl View {
    fn line(&mut self, text: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{}", text.trim_end());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A heading, with something at the right margin.
    fn section(&mut self, title: &str, right: &str) {
        let gap = WIDTH.saturating_sub(width(title) + width(right)).max(2);
        let line = format!("\n{}{}{}", self.paint("1", title), " ".repeat(gap), self.paint("2", right));
        self.line(&line);
    }

    /// A name and a value that may take several lines.
    fn wrapped(&mut self, name: &str, value: &str) {
        let mut label = format!("  {name:<14}");
        let room = WIDTH - 16;
        let mut rest = String::new();
        for word in value.split_whitespace().map(shown) {
            // A digest with its algorithm: on a line of its own, to be copied as it is.
            if width(&word) > room {
                let indent = WIDTH.saturating_sub(width(&word)).max(2);
                self.line(&format!("{label}{rest}"));
                (label, rest) = (" ".repeat(indent), word);
                continue;
            }
            if !rest.is_empty() && width(&rest) + 1 + width(&word) > room {
                let line = format!("{label}{rest}");
                self.line(&line);
                (label, rest) = (" ".repeat(16), String::new());
            }
            if !rest.is_empty() {
                rest.push(' ');
            }
            rest.push_str(&word);
        }
        self.line(&format!("{label}{rest}"));
    }

    fn head(&mut self, inspection: &Inspection) {
        let mut parts = vec![inspection.kind.clone()];
        parts.extend(inspection.compression.iter().map(|compression| format!("compressed with {compression}")));
        parts.push(progress::size(inspection.size));
        parts.extend(inspection.allocated.map(|bytes| format!("{} on this disk", progress::size(bytes))));
        let title = self.paint("1;36", &shown(&inspection.target));
        self.line(&title);
        self.line(&parts.join(", "));
    }

    fn partitions(&mut self, inspection: &Inspection) {
        let Some(guid) = inspection.disk else { return };
        self.section("Partitions", &guid.to_string());
        let largest = inspection.partitions.iter().map(|partition| partition.size).max().unwrap_or(1).max(1);
        for PartitionInfo { number, label, kind, guid: _, offset: _, size, data } in &inspection.partitions {
            let bar = self.bar(*size, largest, *data);
            let kind = cut(kind, 11);
            let line = format!(
                "  {number:>2} {:<11}{kind:<11} {bar} {:>10} {:>9}",
                cut(&shown(label), 10),
                progress::size(*size),
                progress::size(*data)
            );
            self.line(&line);
        }
        let note = self.paint("2", "     bar: size; filled: what the image has there");
        self.line(&note);
    }

    /// A bar of `size` of `largest`, of which `filled` is solid.
    fn bar(&self, size: u64, largest: u64, filled: u64) -> String {
        let cells = |bytes: u64| (u128::from(bytes) * BAR as u128).div_ceil(u128::from(largest.max(1))) as usize;
        let whole = cells(size).min(BAR);
        let solid = cells(filled.min(size)).min(whole);
        let bar = format!("{}{}", "█".repeat(solid), "░".repeat(whole - solid));
        format!("{}{}", self.paint("36", &bar), " ".repeat(BAR - whole))
    }

    /// A bar of `size` of `largest`, to an eighth of a column.
    fn fine_bar(&self, size: u64, largest: u64) -> String {
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let eighths = (u128::from(size) * BAR as u128 * 8).div_ceil(u128::from(largest.max(1))) as usize;
        let eighths = eighths.min(BAR * 8);
        let bar = format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8]);
        format!("{}{}", self.paint("36", &bar), " ".repeat(BAR - width(&bar)))
    }

    fn iso(&mut self, iso: &IsoInfo) {
        self.section("ISO 9660", &shown(&iso.volume));
        for entry in &iso.boot {
            self.wrapped("boots", &format!("{} (image at byte {})", entry.platform, entry.offset));
        }
        if iso.boot.is_empty() {
            self.wrapped("boots", "nothing");
        }
        let mut files: Vec<(&str, u64)> = iso.files.iter().map(|(path, size)| (path.as_str(), *size)).collect();
        files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        self.chart(&files);
    }

    fn release(&mut self, release: &ReleaseInfo) {
        self.section("Release", &format!("{} {} {}", release.name, release.version, release.arch));
        self.wrapped("document", &format!("sha256 {}", release.sha256));
        self.wrapped("board", &release.board);
        self.wrapped("slot", &progress::size(release.slot_size));
        release.minimum_version.iter().for_each(|version| self.wrapped("from", version));
        release.expires.iter().for_each(|time| self.wrapped("expires", &timestamp(*time)));
        match release.signed_by.as_slice() {
            [] => self.wrapped("signed", "no"),
            keys => keys.iter().for_each(|key| self.wrapped("signed by", &cut(&shown(key), 64))),
        }
    }

    fn artifact(&mut self, artifact: &ArtifactInfo) {
        self.section("In the registry", "");
        self.wrapped("digest", &artifact.digest);
        if !artifact.artifact_type.is_empty() {
            self.wrapped("type", &artifact.artifact_type);
        }
        for (name, value) in artifact.annotations.iter().take(MOST) {
            self.wrapped("annotation", &format!("{name} = {value}"));
        }
        for entry in artifact.entries.iter().take(MOST) {
            let name = if entry.name.is_empty() { &entry.media_type } else { &entry.name };
            let digest: String = shown(&entry.digest).chars().take(19).collect();
            let line = format!("  {:<44}{digest:<21}{:>13}", cut(&shown(name), 42), progress::size(entry.size));
            self.line(&line);
        }
        self.more(artifact.entries.len());
    }

    fn system(&mut self, system: &SystemInfo) {
        self.section(
            &format!("System in {}", shown(&system.place)),
            &format!("{} {} {}", shown(&system.name), shown(&system.version), system.arch),
        );
        self.wrapped("epoch", &timestamp(system.epoch));
        self.wrapped("kernel", &system.kernel_release);
        self.wrapped("command line", &system.cmdline);
        self.wrapped("root hash", &system.root_hash.to_string());
        let files: Vec<(&str, u64)> = system.files.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        self.chart(&files);
        let total: u64 = system.contents.iter().map(|content| content.bytes).sum();
        let count: u64 = system.contents.iter().map(|content| content.files).sum();
        let title = if system.by_component { "Sizes by component" } else { "Sizes by directory" };
        self.section(title, &format!("{} in {count} files, before compression", progress::size(total)));
        let contents: Vec<(&str, u64)> =
            system.contents.iter().map(|content| (content.name.as_str(), content.bytes)).collect();
        self.chart(&contents);
        if system.packages.is_empty() {
            return;
        }
        self.section("Packages", &system.packages.len().to_string());
        for package in &system.packages {
            let (name, version) = (cut(&shown(&package.name), 36), cut(&shown(&package.version), 24));
            let line = format!("  {name:<37}{version:<25}{}", cut(&shown(&package.component), 16));
            self.line(&line);
        }
    }

    /// Bars with sizes and shares of the sum.
    fn chart(&mut self, entries: &[(&str, u64)]) {
        let total: u64 = entries.iter().map(|(_, size)| size).sum();
        let largest = entries.iter().map(|(_, size)| *size).max().unwrap_or(1);
        for (name, size) in entries.iter().take(MOST) {
            let permille = (u128::from(*size) * 1000).checked_div(u128::from(total)).unwrap_or(0);
            let share = format!("{}.{} %", permille / 10, permille % 10);
            let bar = self.fine_bar(*size, largest);
            let name = cut(&shown(name), NAME);
            let line = format!("  {name:<NAME$} {bar} {:>10} {share:>8}", progress::size(*size));
            self.line(&line);
        }
        self.more(entries.len());
    }

    fn more(&mut self, count: usize) {
        if count > MOST {
            let text = self.paint("2", &format!("  and {} more (--json lists all)", count - MOST));
            self.line(&text);
        }
    }

    fn beside(&mut self, beside: &[Beside]) {
        self.section("Beside it", "");
        if beside.is_empty() {
            self.line("  no digests, signatures, bills of materials or provenance");
        }
        for Beside { what, name, detail } in beside {
            let line = format!("  {what:<12}{:<48}{}", cut(&shown(name), 47), cut(&shown(detail), 18));
            self.line(&line);
        }
    }
}

/// Text of an image: nothing in it may change the terminal.
fn shown(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Cuts a text to so many columns.
fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use ksos_compose::plan::packages::{ListedContent, ListedPackage};

    use super::*;

    fn inspection() -> Inspection {
        let content = |name: &str, bytes| ListedContent { name: name.to_owned(), files: 3, bytes };
        let system = SystemInfo {
            place: "partition 2 KSOSSYSA".to_owned(),
            name: "edge\x1b[31m".to_owned(),
            version: "1.2.3".to_owned(),
            arch: "x86_64".to_owned(),
            epoch: 1_767_225_600,
            kernel_release: "6.12.117+deb13-cloud-amd64".to_owned(),
            cmdline: "console=ttyS0,115200 panic=10 lockdown=integrity apparmor=1 security=apparmor quiet loglevel=3"
                .to_owned(),
            root_hash: ksos_formats::Digest::of(b"root"),
            files: vec![("vmlinuz".to_owned(), 9 << 20), ("root.squashfs".to_owned(), 60 << 20)],
            contents: vec![
                content("containerd", 98 << 20),
                content("a-very-long-name-of-an-overlay", 1),
                content("none", 0),
            ],
            by_component: true,
            packages: vec![ListedPackage {
                name: "linux-image-6.12.117+deb13-cloud-amd64-unsigned".to_owned(),
                version: "6.12.117-1~bpo12+1+very+long+version".to_owned(),
                component: "kernel".to_owned(),
            }],
        };
        Inspection {
            target: "out/edge-1.2.3-x86_64.img".to_owned(),
            kind: "disk".to_owned(),
            size: 1_377_828_864,
            allocated: Some(79 << 20),
            disk: Some(Default::default()),
            partitions: vec![PartitionInfo {
                number: 1,
                label: "KSOSEFI".to_owned(),
                kind: "EFI system".to_owned(),
                guid: Default::default(),
                offset: 1 << 20,
                size: 256 << 20,
                data: 5 << 20,
            }],
            systems: vec![system],
            beside: vec![Beside {
                what: "sbom".to_owned(),
                name: "edge-1.2.3-x86_64.spdx.json".to_owned(),
                detail: "SPDX 2.3".to_owned(),
            }],
            ..Inspection::default()
        }
    }

    #[test]
    fn no_line_is_wider_than_80_columns_and_nothing_of_an_image_reaches_the_terminal() {
        let text = show(&inspection(), false);
        assert!(!text.contains('\x1b'), "{text}");
        for line in text.lines() {
            assert!(width(line) <= WIDTH, "{} columns: {line}", width(line));
        }
        for part in ["containerd", "98.0 MiB", "99.9 %", "KSOSEFI", "6.12.117+deb13-cloud-amd64", "SPDX 2.3"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(show(&inspection(), true).contains("\x1b[1;36mout/edge"), "colours are there when they are wanted");
    }
}
