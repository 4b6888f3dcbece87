//! PAX extended header records (POSIX.1-2017, `pax`, "pax Extended Header").

use std::collections::BTreeMap;

use super::super::error::{Fault, text};

/// The records of an extended header that matter here.
#[derive(Debug, Default, Clone)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<i64>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    /// The entry is sparse in one of GNU's ways.
    pub(super) sparse: bool,
    /// Attributes in libarchive's form, which come beside those in `SCHILY.xattr` form.
    libarchive: usize,
}

impl Records {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let mut records = Records::default();
        let mut rest = body;
        while !rest.is_empty() {
            let (key, value);
            (key, value, rest) = split_record(rest).ok_or(Fault::Damaged("a PAX record"))?;
            records.set(text(key)?, value)?;
        }
        if records.libarchive > records.xattrs.len() {
            return Err(Fault::Unsupported("extended attributes in libarchive's form alone are"));
        }
        Ok(records)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Fault> {
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = Some(decimal(value)?),
            "uid" => self.uid = Some(decimal(value)?),
            "gid" => self.gid = Some(decimal(value)?),
            "mtime" => self.mtime = Some(seconds(value)?),
            "RHT.security.selinux" => self.xattr("security.selinux", value)?,
            _ if key.starts_with("GNU.sparse.") => self.sparse = true,
            _ if key.starts_with("SCHILY.acl.") => return Err(Fault::Unsupported("access control lists are")),
            _ if key.starts_with("LIBARCHIVE.xattr.") => self.libarchive += 1,
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    self.xattr(name, value)?;
                }
                // Left over: times of access and change, user and group names, comments, character sets of names
                // (which must be UTF-8 whatever they say).
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &str, value: &[u8]) -> Result<(), Fault> {
        // Linux xattr(7): names have at most 255 bytes, values 64 KiB.
        if name.is_empty() || name.len() > 255 || name.contains('\0') || value.len() > 65536 {
            return Err(Fault::Damaged("an extended attribute"));
        }
        self.xattrs.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    /// Takes over the records of a global header: owner and time only. A path or size for every entry is refused.
    pub(super) fn merge_global(&mut self, body: Vec<u8>) -> Result<(), Fault> {
        let Records { path, link, size, uid, gid, mtime, xattrs, sparse, libarchive: _ } = Records::parse(&body)?;
        if path.is_some() || link.is_some() || size.is_some() || !xattrs.is_empty() || sparse {
            return Err(Fault::Damaged("a global PAX header sets what only one entry can have"));
        }
        self.uid = uid.or(self.uid);
        self.gid = gid.or(self.gid);
        self.mtime = mtime.or(self.mtime);
        Ok(())
    }
}

/// Splits `LENGTH KEY=VALUE\n` off; the length counts the whole record.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let length = decimal(&bytes[..space]).ok()? as usize;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&record[..equals], &record[equals + 1..], &bytes[length..]))
}

fn decimal(digits: &[u8]) -> Result<u64, Fault> {
    let bad = Fault::Damaged("a number in a PAX record");
    if digits.is_empty() || digits.len() > 19 || digits.iter().any(|digit| !digit.is_ascii_digit()) {
        return Err(bad);
    }
    Ok(digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

/// Reads a time; the fraction is dropped, towards the past.
fn seconds(value: &[u8]) -> Result<i64, Fault> {
    let negative = value.first() == Some(&b'-');
    let value = if negative { &value[1..] } else { value };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default())?;
    let fraction = parts.next().unwrap_or_default();
    if fraction.iter().any(|digit| !digit.is_ascii_digit()) {
        return Err(Fault::Damaged("a number in a PAX record"));
    }
    let whole = i64::try_from(whole).unwrap_or(i64::MAX);
    let below = i64::from(negative && fraction.iter().any(|digit| *digit != b'0'));
    Ok(if negative { (-whole).saturating_sub(below) } else { whole })
}
