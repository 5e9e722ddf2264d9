use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;
use crate::layer::{Compression, Stream, UnpackLimits, apply_onto};
use crate::testsuite::{Item, blob, tar};

/// Keeps all events as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn root_a_layer_full_of_forged_books_is_one_line_in_the_log() {
    let files = (0..500).map(|n| {
        Item::file(format!("f{n}"), "x")
            .xattr("trusted.overlay.redirect", "/")
            .xattr("trusted.overlay.origin", "o")
    });
    let archive = tar::archive(&files.collect::<Vec<_>>());
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        let dir = tempfile::tempdir().unwrap();
        let root: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let limits = UnpackLimits::default();
        let stream = Stream::open(&mut blob(archive, Compression::None), &limits).unwrap();
        apply_onto(root, true, stream, &limits).unwrap();
    });
    let lines = log.0.lock().unwrap().clone();
    let [line] = &lines[..] else { panic!("{} lines: {:?}", lines.len(), lines.first()) };
    for part in ["count=1000", "f0", "trusted.overlay", "overlayfs's own"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn what_is_within_is_told_apart_and_what_is_in_no_tree_at_once() {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        together(|| {
            note(Why::Unsupported, b"outer", b"user.a");
            together(|| note(Why::Unsupported, b"inner", b"user.b"));
            note(Why::Unsupported, b"outer", b"user.c");
        });
        note(Why::Overlay, b"alone", b"trusted.overlay.opaque");
        together(|| {});
    });
    let lines = log.0.lock().unwrap().clone();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, part) in
        lines.iter().zip([["count=1 ", "inner"], ["count=2 ", "outer"], ["count=1 ", "alone"]])
    {
        assert!(part.iter().all(|part| line.contains(part)), "{part:?} in {line}");
    }
}
