//! Where everything goes.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{self, Short};
use super::{ALIGNMENT, FatError, FatKind, FatSpec, FatSummary, SECTOR};
use crate::tree::{Content, Node, Tree, parent};

/// First cluster of the root directory, the first that there is.
pub(super) const ROOT_CLUSTER: u32 = 2;
/// "A volume with 65525 clusters or more is FAT32" (section 3.5).
const LEAST_CLUSTERS: u64 = 65_525;
const MOST_CLUSTERS: u64 = 0x0fff_fff5;
const RESERVED_SECTORS: u64 = 32;
/// "A volume with 4085 to 65524 clusters is FAT16."
const LEAST_CLUSTERS_16: u64 = 4085;
const RESERVED_SECTORS_16: u64 = 8;
/// Entries of the root directory of FAT16, which has a place of its own.
pub(super) const ROOT_ENTRIES_16: u64 = 512;
/// "The maximum size of a directory is 2 MiB" (section 6).
const DIRECTORY_ENTRIES: usize = 65_536;

/// Sizes and positions of the parts of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) kind: FatKind,
    pub(super) cluster_size: u64,
    pub(super) clusters: u64,
    pub(super) reserved_sectors: u64,
    pub(super) table_sectors: u64,
}

impl Geometry {
    pub(super) fn new(kind: FatKind, size: u64) -> Result<Self, FatError> {
        let fail = |reason| Err(FatError::Size { kind, size, reason });
        if !size.is_multiple_of(ALIGNMENT) {
            return fail("it is not a multiple of 4096");
        }
        if size / SECTOR > u64::from(u32::MAX) {
            return fail("it has at most 4294967295 sectors of 512 bytes");
        }
        let (sizes, least) = match kind {
            FatKind::Fat32 => ([4096, 2048, 1024, 512].as_slice(), LEAST_CLUSTERS),
            FatKind::Fat16 => ([4096, 2048].as_slice(), LEAST_CLUSTERS_16),
        };
        let mut geometries = sizes.iter().filter_map(|cluster_size| Geometry::with(kind, size, *cluster_size));
        let large = geometries.find(|geometry| geometry.clusters >= least);
        match (large, kind) {
            (Some(geometry), FatKind::Fat32) if geometry.clusters <= MOST_CLUSTERS => Ok(geometry),
            (Some(geometry), FatKind::Fat16) if geometry.clusters < LEAST_CLUSTERS => Ok(geometry),
            (Some(_), FatKind::Fat32) => fail("it has more than 268435445 clusters of 4096 bytes"),
            (Some(_), FatKind::Fat16) => fail("it has more than 65524 clusters of 4096 bytes"),
            (None, FatKind::Fat32) => fail("FAT32 has at least 65525 clusters, which takes 34 MB"),
            (None, FatKind::Fat16) => fail("FAT16 has at least 4085 clusters, which takes 8.4 MB"),
        }
    }

    /// The tables are rounded up so that the first cluster is at a multiple of 4 KiB.
    fn with(kind: FatKind, size: u64, cluster_size: u64) -> Option<Self> {
        let (entry, reserved_sectors) = match kind {
            FatKind::Fat32 => (4, RESERVED_SECTORS),
            FatKind::Fat16 => (2, RESERVED_SECTORS_16),
        };
        let table_bytes = (size / cluster_size + 2) * entry;
        let table_sectors = table_bytes.div_ceil(SECTOR).next_multiple_of(ALIGNMENT / SECTOR / 2);
        let mut geometry = Geometry { kind, cluster_size, clusters: 0, reserved_sectors, table_sectors };
        geometry.clusters = size.checked_sub(geometry.position(ROOT_CLUSTER))? / cluster_size;
        Some(geometry)
    }

    /// Returns where a cluster starts, in bytes.
    pub(super) fn position(&self, cluster: u32) -> u64 {
        let root = match self.kind {
            FatKind::Fat32 => 0,
            FatKind::Fat16 => ROOT_ENTRIES_16 * 32,
        };
        let clusters_at = (self.reserved_sectors + 2 * self.table_sectors) * SECTOR + root;
        clusters_at + u64::from(cluster - ROOT_CLUSTER) * self.cluster_size
    }

    /// Returns how many clusters make the alignment.
    fn unit(&self) -> u64 {
        ALIGNMENT / self.cluster_size
    }
}

/// Where the bytes of an object come from.
#[derive(Debug)]
pub(super) enum Source<'a> {
    Directory(Vec<u8>),
    File(&'a Content),
}

/// A directory or a file that is not empty.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) path: &'a str,
    pub(super) cluster: u32,
    pub(super) clusters: u32,
    pub(super) source: Source<'a>,
}

/// A volume before it is written.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) geometry: Geometry,
    pub(super) label: Short,
    pub(super) objects: Vec<Object<'a>>,
    /// First cluster behind all objects.
    pub(super) end_cluster: u32,
    /// The root directory, where it is no object.
    pub(super) root: Vec<u8>,
}

/// A name in a directory.
#[derive(Debug)]
struct Child<'a> {
    path: &'a str,
    name: &'a str,
    short: Short,
    /// The name is more than the short name says.
    long: bool,
    content: Option<&'a Content>,
}

/// What is in each directory, by the directory's path, in byte order of the names.
type Directories<'a> = BTreeMap<&'a str, Vec<Child<'a>>>;

impl<'a> Plan<'a> {
    pub(super) fn new(tree: &'a Tree, spec: &FatSpec) -> Result<Self, FatError> {
        let geometry = Geometry::new(spec.kind, spec.size)?;
        let label = names::label(&spec.label)?;
        let directories = collect(tree)?;
        let places = place(tree, &directories, &geometry)?;
        let stamp = Stamp::new(spec.epoch);
        let mut objects = Vec::new();
        for (path, Place { cluster, clusters }) in &places.objects {
            let source = match directories.get(path) {
                Some(children) => Source::Directory(render(path, children, &places, &label, &stamp)),
                None => Source::File(content(tree, path).ok_or_else(|| kind_error(path, "hard link"))?),
            };
            objects.push(Object { path, cluster: *cluster, clusters: *clusters, source });
        }
        let root = match (geometry.kind, directories.get("")) {
            (FatKind::Fat16, Some(children)) => render("", children, &places, &label, &stamp),
            _ => Vec::new(),
        };
        Ok(Plan { geometry, label, objects, end_cluster: places.end, root })
    }

    pub(super) fn free_clusters(&self) -> u64 {
        self.geometry.clusters - self.objects.iter().map(|object| u64::from(object.clusters)).sum::<u64>()
    }

    /// Returns the hint where free clusters are: behind everything, at a block of its own.
    pub(super) fn next_free(&self) -> u32 {
        let last = self.geometry.clusters as u32 + 1;
        if self.end_cluster <= last { self.end_cluster } else { u32::MAX }
    }

    pub(super) fn summary(&self) -> FatSummary {
        let files = self.objects.iter().filter(|object| matches!(object.source, Source::File(_)));
        FatSummary {
            cluster_size: self.geometry.cluster_size,
            clusters: self.geometry.clusters,
            free: self.free_clusters() * self.geometry.cluster_size,
            files: files.map(|object| (object.path.to_owned(), self.geometry.position(object.cluster))).collect(),
        }
    }
}

fn kind_error(path: &str, kind: &'static str) -> FatError {
    FatError::Kind { path: path.to_owned(), kind }
}

fn content<'a>(tree: &'a Tree, path: &str) -> Option<&'a Content> {
    match &tree.get(path)?.node {
        Node::File(content) => Some(content),
        _ => None,
    }
}

/// Sorts the entries of the tree into directories, and checks them.
fn collect(tree: &Tree) -> Result<Directories<'_>, FatError> {
    let mut directories = Directories::from([("", Vec::new())]);
    for (path, entry) in tree.iter().filter(|(path, _)| !path.is_empty()) {
        let content = match &entry.node {
            Node::Directory => None,
            Node::File(content) if content.size > u64::from(u32::MAX) => {
                return Err(FatError::FileTooLarge { path: path.to_owned(), size: content.size });
            }
            Node::File(content) => Some(content),
            Node::Symlink(_) => return Err(kind_error(path, "symbolic link")),
            Node::HardLink(_) => return Err(kind_error(path, "hard link")),
            Node::CharacterDevice { .. } | Node::BlockDevice { .. } => return Err(kind_error(path, "device")),
            Node::Fifo => return Err(kind_error(path, "FIFO")),
            Node::Socket => return Err(kind_error(path, "socket")),
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        if let Some(reason) = names::fault(name) {
            return Err(FatError::Name { path: path.to_owned(), reason });
        }
        let child = Child { path, name, short: [b' '; 11], long: false, content };
        directories.entry(parent(path).unwrap_or("")).or_default().push(child);
        if content.is_none() {
            directories.entry(path).or_default();
        }
    }
    for children in directories.values_mut() {
        shorten(children)?;
    }
    Ok(directories)
}

/// Gives each name of a directory its short name. Names that are short already come first, so that no numbered one
/// takes theirs.
fn shorten(children: &mut [Child<'_>]) -> Result<(), FatError> {
    let mut folded: BTreeMap<String, &str> = BTreeMap::new();
    for child in &*children {
        if let Some(first) = folded.insert(names::folded(child.name), child.path) {
            return Err(FatError::SameName { first: first.to_owned(), second: child.path.to_owned() });
        }
    }
    let mut taken = BTreeSet::new();
    for child in &mut *children {
        if let Some((short, same)) = names::exact_short(child.name) {
            (child.short, child.long) = (short, !same);
            taken.insert(short);
        }
    }
    for child in children.iter_mut().filter(|child| names::exact_short(child.name).is_none()) {
        (child.short, child.long) = (names::numbered_short(child.name, &taken), true);
        taken.insert(child.short);
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Place {
    cluster: u32,
    clusters: u32,
}

#[derive(Debug)]
struct Places<'a> {
    objects: BTreeMap<&'a str, Place>,
    end: u32,
}

/// Gives each directory and each file that is not empty its clusters, in byte order of the paths.
fn place<'a>(tree: &'a Tree, directories: &Directories<'a>, geometry: &Geometry) -> Result<Places<'a>, FatError> {
    let mut objects = BTreeMap::new();
    let mut next = 0_u64;
    let root = [("", directories.get(""))].into_iter();
    let others = tree.iter().filter(|(path, _)| !path.is_empty()).map(|(path, _)| (path, directories.get(path)));
    for (path, children) in root.chain(others) {
        let size = match children {
            Some(children) if path.is_empty() && geometry.kind == FatKind::Fat16 => {
                let entries = directory_size(path, children)? / 32;
                if entries > ROOT_ENTRIES_16 {
                    let (entries, limit) = (entries as usize, ROOT_ENTRIES_16 as usize);
                    return Err(FatError::DirectoryTooLarge { path: path.to_owned(), entries, limit });
                }
                0
            }
            Some(children) => directory_size(path, children)?,
            None => content(tree, path).map_or(0, |content| content.size),
        };
        let clusters = size.div_ceil(geometry.cluster_size);
        if clusters > 0 {
            let place = Place { cluster: (next + 2).try_into().unwrap_or(u32::MAX), clusters: clusters as u32 };
            objects.insert(path, place);
            next = (next + clusters).next_multiple_of(geometry.unit());
        }
    }
    if next > geometry.clusters {
        let (needed, available) = (next * geometry.cluster_size, geometry.clusters * geometry.cluster_size);
        return Err(FatError::Full { needed, available });
    }
    Ok(Places { objects, end: (next + 2) as u32 })
}

/// Returns the bytes of a directory's entries: at least one, the end mark not counted.
fn directory_size(path: &str, children: &[Child<'_>]) -> Result<u64, FatError> {
    // The root has the volume label, others `.` and `..`.
    let own = if path.is_empty() { 1 } else { 2 };
    let long = |child: &Child<'_>| if child.long { names::long_entries(child.name) } else { 0 };
    let entries = own + children.iter().map(|child| 1 + long(child)).sum::<usize>();
    if entries > DIRECTORY_ENTRIES {
        let limit = DIRECTORY_ENTRIES;
        return Err(FatError::DirectoryTooLarge { path: path.to_owned(), entries, limit });
    }
    Ok(entries as u64 * 32)
}

/// Date and time of all entries.
#[derive(Debug)]
struct Stamp {
    time: u16,
    date: u16,
}

impl Stamp {
    /// Section 6.3; years 1980 to 2107, two-second steps.
    fn new(epoch: i64) -> Self {
        const FIRST: i64 = 315_532_800;
        const LAST: i64 = 4_354_819_198;
        let seconds = epoch.clamp(FIRST, LAST);
        let moment = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let date =
            (moment.year() as u16 - 1980) << 9 | u16::from(u8::from(moment.month())) << 5 | u16::from(moment.day());
        let time = u16::from(moment.hour()) << 11 | u16::from(moment.minute()) << 5 | u16::from(moment.second() / 2);
        Stamp { time, date }
    }
}

/// Makes the bytes of a directory.
fn render(path: &str, children: &[Child<'_>], places: &Places<'_>, label: &Short, stamp: &Stamp) -> Vec<u8> {
    let cluster = |path: &str| places.objects.get(path).map_or(0, |place| place.cluster);
    let mut bytes = Vec::new();
    if path.is_empty() {
        put(&mut bytes, label, 0x08, 0, 0, stamp);
    } else {
        let above = parent(path).unwrap_or("");
        // "If the parent is the root, the cluster is set to 0."
        let parent_cluster = if above.is_empty() { 0 } else { cluster(above) };
        put(&mut bytes, b".          ", 0x10, cluster(path), 0, stamp);
        put(&mut bytes, b"..         ", 0x10, parent_cluster, 0, stamp);
    }
    for child in children {
        if child.long {
            names::put_long(&mut bytes, child.name, &child.short);
        }
        let (attributes, size) = child.content.map_or((0x10, 0), |content| (0x20, content.size as u32));
        put(&mut bytes, &child.short, attributes, cluster(child.path), size, stamp);
    }
    bytes
}

/// Appends a short entry (section 6).
fn put(directory: &mut Vec<u8>, short: &Short, attributes: u8, cluster: u32, size: u32, stamp: &Stamp) {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(short);
    // 0xe5 as the first byte means a free entry; no short name made here begins with it.
    entry[11] = attributes;
    entry[14..16].copy_from_slice(&stamp.time.to_le_bytes());
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&stamp.date.to_le_bytes());
    }
    entry[22..24].copy_from_slice(&stamp.time.to_le_bytes());
    entry[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
    entry[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
    entry[28..32].copy_from_slice(&size.to_le_bytes());
    directory.extend_from_slice(&entry);
}
