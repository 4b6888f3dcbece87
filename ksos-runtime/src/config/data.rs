//! `/etc/kubesolo/cloud-init.yaml`: the directory is bound from the data partition at stage 35.

use ksos_formats::config::DOCUMENT_LIMIT;

use super::Context;
use super::source::{Found, Gathered, Source, text_of};

/// Where the document is.
pub const PATH: &str = "/etc/kubesolo/cloud-init.yaml";

/// Reads the document, if there is one.
pub(super) fn look(context: &Context<'_>, insist: bool, _warnings: &mut Vec<String>) -> Gathered {
    let sys = context.sys;
    let bytes = match sys.read(PATH, DOCUMENT_LIMIT as u64) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => {
            return Gathered::Absent(insist.then(|| format!("{PATH} is not there")));
        }
        Err(error) => return Gathered::Refused(vec![error.to_string()]),
    };
    match text_of(PATH, &bytes) {
        Ok(user_data) => Gathered::Found(Found { user_data, ..Found::empty(Source::Data, PATH) }),
        Err(errors) => Gathered::Refused(errors),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;
    use super::*;

    #[test]
    fn there_absent_and_unreadable() {
        let bench = Bench::new("");
        assert_eq!(look(&bench.context(), false, &mut Vec::new()), Gathered::Absent(None));
        assert!(matches!(look(&bench.context(), true, &mut Vec::new()), Gathered::Absent(Some(_))));
        bench.sys.put(PATH, "hostname: n1\n");
        let Gathered::Found(found) = look(&bench.context(), false, &mut Vec::new()) else { panic!("there") };
        assert_eq!((found.source, found.user_data.as_str()), (Source::Data, "hostname: n1\n"));
        bench.sys.put(PATH, [0x1f, 0x8b, 8, 0]);
        let Gathered::Refused(errors) = look(&bench.context(), false, &mut Vec::new()) else { panic!("refused") };
        assert!(errors[0].starts_with("/etc/kubesolo/cloud-init.yaml:1:1: "), "{errors:?}");
        bench.sys.put(PATH, vec![b'#'; DOCUMENT_LIMIT + 1]);
        assert!(matches!(look(&bench.context(), false, &mut Vec::new()), Gathered::Refused(_)));
    }
}
