use super::*;

/// Metadata in memory, with sums as they should be unless a test spoils them.
struct Image(Vec<Vec<u8>>);

impl Blocks for Image {
    fn read(&mut self, number: u64, to: &mut [u8]) -> io::Result<()> {
        let block = usize::try_from(number).ok().and_then(|number| self.0.get(number));
        to.copy_from_slice(block.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn sealed(mut block: Vec<u8>, at: u64, xor: u32) -> Vec<u8> {
    block.resize(BLOCK, 0);
    block[8..16].copy_from_slice(&at.to_le_bytes());
    let sum = crc32c(&block[4..]) ^ xor;
    block[..4].copy_from_slice(&sum.to_le_bytes());
    block
}

fn superblock(at: u64, root: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[32..40].copy_from_slice(&MAGIC.to_le_bytes());
    block[328..336].copy_from_slice(&root.to_le_bytes());
    sealed(block, at, SUPERBLOCK_XOR)
}

fn node(at: u64, flags: u32, entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let size = entries.first().map_or(DETAILS, |(_, value)| value.len());
    let most = (BLOCK - NODE_HEAD) / (8 + size);
    let mut block = vec![0; BLOCK];
    block[4..8].copy_from_slice(&flags.to_le_bytes());
    for (field, number) in [(16, entries.len()), (20, most), (24, size)] {
        block[field..field + 4].copy_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
    }
    for (index, (key, value)) in entries.iter().enumerate() {
        block[NODE_HEAD + index * 8..][..8].copy_from_slice(&key.to_le_bytes());
        block[NODE_HEAD + most * 8 + index * size..][..size].copy_from_slice(value);
    }
    sealed(block, at, TREE_XOR)
}

fn leaf(at: u64, ids: &[u64]) -> Vec<u8> {
    let value = |id: &u64| [(id * 10).to_le_bytes().as_slice(), &[0; 16]].concat();
    node(at, LEAF, &ids.iter().map(|id| (*id, value(id))).collect::<Vec<_>>())
}

fn inner(at: u64, children: &[u64]) -> Vec<u8> {
    node(
        at,
        INTERNAL,
        &children.iter().map(|child| (*child, child.to_le_bytes().to_vec())).collect::<Vec<_>>(),
    )
}

fn found(blocks: Vec<Vec<u8>>) -> Result<Vec<(u32, u64)>, String> {
    match devices(&mut Image(blocks), 0) {
        Ok(found) => Ok(found.into_iter().map(|(id, details)| (id, details.mapped)).collect()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_sum_is_that_of_the_kernel() {
    // The check value of CRC-32C is inverted.
    assert_eq!(crc32c(b"123456789"), !0xe306_9283);
}

#[test]
fn what_the_superblock_says() {
    let read = |block: Vec<u8>| crate::dm::metadata::superblock(&mut Image(vec![block]));
    let mut block = superblock(0, 1);
    block[64..72].copy_from_slice(&700_u64.to_le_bytes());
    block[192..200].copy_from_slice(&80_u64.to_le_bytes());
    let whole = sealed(block.clone(), 0, SUPERBLOCK_XOR);
    let said = Superblock { needs_check: false, data_blocks: 700, metadata_blocks: 80 };
    assert_eq!(read(whole).unwrap(), Some(said));
    block[4] = 1;
    let flagged = sealed(block.clone(), 0, SUPERBLOCK_XOR);
    assert_eq!(read(flagged).unwrap(), Some(Superblock { needs_check: true, ..said }));
    // Blank is no damage; all else is.
    assert_eq!(read(vec![0; BLOCK]).unwrap(), None);
    block[4] = 0;
    assert!(read(block).is_err(), "the sum is of something else");
    assert!(read(sealed(Vec::new(), 0, SUPERBLOCK_XOR)).is_err(), "no magic number");
}

#[test]
fn devices_of_one_and_of_several_leaves() {
    assert_eq!(found(vec![superblock(0, 1), leaf(1, &[])]), Ok(vec![]));
    assert_eq!(found(vec![superblock(0, 1), leaf(1, &[0, 7])]), Ok(vec![(0, 0), (7, 70)]));
    let blocks = vec![superblock(0, 1), inner(1, &[2, 3]), leaf(2, &[1, 2]), leaf(3, &[16_777_215])];
    assert_eq!(found(blocks), Ok(vec![(1, 10), (2, 20), (16_777_215, 167_772_150)]));
}

#[test]
fn damage_is_told_and_ends() {
    let refused = |blocks, why: &str| {
        let error = found(blocks).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    let mut flipped = leaf(1, &[1]);
    flipped[100] ^= 1;
    refused(vec![superblock(0, 1), flipped], "its sum is wrong");
    refused(vec![superblock(0, 1), leaf(2, &[1])], "it belongs elsewhere");
    refused(vec![leaf(0, &[1])], "its sum is wrong");
    refused(vec![sealed(Vec::new(), 0, SUPERBLOCK_XOR)], "no superblock");
    refused(vec![superblock(0, 9)], "cannot read block 9");
    refused(vec![superblock(0, 1), inner(1, &[1])], "comes back");
    refused(vec![superblock(0, 0)], "comes back");
    let twice = vec![superblock(0, 1), inner(1, &[2, 3]), leaf(2, &[1]), leaf(3, &[1])];
    refused(twice, "there twice");
    refused(vec![superblock(0, 1), leaf(1, &[1 << 24])], "out of range");
    refused(vec![superblock(0, 1), node(1, 3, &[])], "neither");
    let mut many = leaf(1, &[1]);
    many[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(vec![superblock(0, 1), sealed(many, 1, TREE_XOR)], "more entries");
    let mut large = leaf(1, &[1]);
    large[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(vec![superblock(0, 1), sealed(large, 1, TREE_XOR)], "more entries");
}

proptest::proptest! {
    /// Whatever the bytes are, with sums as they should be: an answer, and soon.
    #[test]
    fn any_bytes(seed in proptest::collection::vec(proptest::prelude::any::<u8>(), BLOCK), flags in 1_u32..3) {
        let mut block = seed;
        block[4..8].copy_from_slice(&flags.to_le_bytes());
        let _ = found(vec![superblock(0, 1), sealed(block, 1, TREE_XOR)]);
    }
}
