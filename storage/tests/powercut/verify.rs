//! The look at what a power cut has left: the start is as ever, what is there is whole, what was promised is there, and what is
//! missing can be had again.

use std::io::{Cursor, Read};

use stower_storage::testsuite::open;
use stower_storage::{
    Compression, DiffId, Encoding, Image, LayerBlob, Storage, UnpackLimits, Volumes, detached,
};

use crate::things::{Place, chain, held, name, seen};

/// What is wrong, a line each. What was only begun is counted where it is not there.
pub(crate) fn verify(place: &Place, must: &[&str], begun: &[&str]) -> Vec<String> {
    std::fs::create_dir_all(&place.root).unwrap();
    let (storage, volumes) = match place.open() {
        Ok(open) => open,
        Err(error) => return vec![format!("the start fails: {}", chain(&*error))],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut wrong = Vec::new();
    let images = match storage.images() {
        Ok(images) => images,
        Err(error) => return vec![format!("the images cannot be listed: {}", chain(&error))],
    };
    for image in &images {
        if let Err(error) = image_is_whole(place, &storage, &runtime, image) {
            wrong.push(format!("image {:?} {}: {error}", image.reference, image.digest));
        }
    }
    for snapshot in storage.snapshots().list() {
        let mounts = storage.snapshots().activate(&snapshot.key);
        match mounts.map(|mounts| mounts.first().map(detached::open)) {
            Ok(Some(Ok(_))) => {}
            other => wrong.push(format!("snapshot {}: {other:?}", snapshot.key)),
        }
        if let Err(error) = storage.snapshots().remove(&snapshot.key) {
            wrong.push(format!("snapshot {} cannot be removed: {}", snapshot.key, chain(&error)));
        }
    }
    let filled = all_volumes(place, &volumes, &mut wrong);
    let is_there = |what: &str| match what.split_once(':') {
        Some(("image", name)) => {
            images.iter().any(|image| image.reference.as_ref().is_some_and(|it| it.to_string() == *name))
        }
        Some(("volume", key)) => {
            volumes.find(&key.parse().unwrap()).is_ok_and(|found| found.is_some_and(|it| it.has_data))
        }
        // The agent's own, which its test program looks at.
        _ => true,
    };
    let gone = must.iter().filter(|what| !is_there(what));
    wrong.extend(gone.map(|what| format!("{what} had been promised and is gone")));
    let lost = begun.iter().filter(|what| !is_there(what)).count();
    let again = again(place, &storage, &runtime, &images, &mut wrong);
    println!("FIGURES images={} pulled-again={again} volumes={filled} begun-and-lost={lost}", images.len());
    wrong
}

/// Each blob is what its digest says, and the unpacked layers are what the blobs say.
fn image_is_whole(
    place: &Place,
    storage: &Storage,
    runtime: &tokio::runtime::Runtime,
    image: &Image,
) -> Result<(), String> {
    let read = |digest| -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let reader = storage.content().reader(digest).map_err(|error| chain(&error));
        reader?.read_to_end(&mut bytes).map_err(|error| format!("blob {digest}: {error}"))?;
        Ok(bytes)
    };
    for digest in [&image.manifest, &image.id] {
        read(digest)?;
    }
    let mut blobs = Vec::new();
    for layer in &image.layers {
        blobs.push(read(&layer.digest)?);
    }
    if !storage.is_unpacked(image) {
        runtime.block_on(storage.unpack(image)).map_err(|error| format!("unpack: {}", chain(&error)))?;
    }
    let expected = expected(place, image, blobs)?;
    let found = seen(storage.snapshots(), &image.chain_id).map_err(|error| chain(&*error))?;
    match difference(&expected, &found) {
        Some(line) => Err(format!("its tree is not what its layers say: {line}")),
        None => Ok(()),
    }
}

/// What the blobs unpack to, elsewhere; kept beside, since it is asked for again after the next cut.
fn expected(place: &Place, image: &Image, blobs: Vec<Vec<u8>>) -> Result<String, String> {
    let kept = place.beside.join(format!("tree-{}", image.chain_id.0.hex()));
    if let Ok(text) = std::fs::read_to_string(&kept) {
        return Ok(text);
    }
    let dir = tempfile::tempdir_in(&place.beside).map_err(|error| error.to_string())?;
    let reference = open("native", dir.path());
    let layer = |(layer, bytes): (&stower_storage::Layer, Vec<u8>)| LayerBlob {
        diff_id: DiffId(layer.diff_id.0),
        compression: match layer.encoding {
            Encoding::Tar => Compression::None,
            Encoding::Zstd => Compression::Zstd,
            _ => Compression::Gzip,
        },
        size: layer.size,
        open: Box::new(move || Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>)),
    };
    let layers = image.layers.iter().zip(blobs).map(layer).collect();
    let chain_id = reference.unpack_image(layers, &UnpackLimits::default()).map_err(|error| chain(&error))?;
    let text = seen(&reference, &chain_id).map_err(|error| chain(&*error))?;
    std::fs::write(&kept, &text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// The first line that only one of them has.
fn difference(expected: &str, found: &str) -> Option<String> {
    if expected == found {
        return None;
    }
    let only = |one: &str, other: &str| {
        one.lines().find(|line| !other.lines().any(|it| it == *line)).unwrap_or("").to_owned()
    };
    Some(format!("expected {} found {}", only(expected, found), only(found, expected)))
}

/// Each volume is readable, and is empty or has all that it was filled with. Gives the number of those.
fn all_volumes(place: &Place, volumes: &Volumes, wrong: &mut Vec<String>) -> usize {
    let list = match volumes.list() {
        Ok(list) => list,
        Err(error) => {
            wrong.push(format!("the volumes cannot be listed: {}", chain(&error)));
            return 0;
        }
    };
    let mut filled = 0;
    for (key, error) in &list.broken {
        wrong.push(format!("volume {key} is broken: {}", chain(error)));
    }
    for volume in &list.volumes {
        let key = &volume.key;
        if !volume.has_data {
            continue;
        }
        let Some(image) = &volume.filled_from else {
            wrong.push(format!("volume {key} has data from nowhere"));
            continue;
        };
        let found = volumes.activate(key).map_err(|error| chain(&error));
        let found = found.and_then(|active| held(&active).map_err(|error| chain(&*error)));
        let expected = std::fs::read_to_string(place.fill_of(image)).map_err(|error| error.to_string());
        match (expected, found) {
            (Ok(expected), Ok(found)) => {
                filled += 1;
                if let Some(line) = difference(&expected, &found) {
                    wrong.push(format!("volume {key} has not what it was filled with: {line}"));
                }
            }
            (Err(error), _) | (_, Err(error)) => wrong.push(format!("volume {key}: {error}")),
        }
    }
    filled
}

/// One image that is not there is pulled: work goes on. Gives how many.
fn again(
    place: &Place,
    storage: &Storage,
    runtime: &tokio::runtime::Runtime,
    images: &[Image],
    wrong: &mut Vec<String>,
) -> usize {
    let there = |name: &str| {
        images.iter().any(|image| image.reference.as_ref().is_some_and(|it| it.to_string() == name))
    };
    let layouts = std::fs::read_dir(&place.beside).unwrap().flatten().filter_map(|entry| {
        let path = entry.path();
        let round = path.file_name()?.to_str()?.strip_prefix("layout-")?.split('-').nth(1)?.parse().ok()?;
        path.join("index.json").exists().then_some((round, path))
    });
    let missing = layouts.filter(|(round, _)| !there(&name(*round))).max();
    let Some((round, layout)) = missing else { return 0 };
    let import = storage.import(layout, Some(name(round).parse().unwrap()));
    let pulled = runtime.block_on(import).map_err(|error| chain(&error));
    let whole = pulled.and_then(|images| image_is_whole(place, storage, runtime, &images[0]));
    if let Err(error) = whole {
        wrong.push(format!("image {} cannot be had again: {error}", name(round)));
    }
    1
}
