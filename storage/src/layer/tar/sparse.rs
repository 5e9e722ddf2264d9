//! Files with holes: GNU's own header, and the three ways to say it in extended headers.

use super::header::{Block, number};
use super::pax::{Sparse, decimal};
use super::{LayerError, Reader, Segment, Source};

impl<S: Source> Reader<'_, S> {
    /// The file's size and its pieces of data. For version 1.0 the map is at the start of the data.
    pub(super) fn sparse(
        &mut self,
        block: &Block,
        pax: &Sparse,
        regular: bool,
        stored: u64,
    ) -> Result<(u64, Option<Vec<Segment>>), LayerError> {
        let by_pax = *pax != Sparse::default();
        if block.kind() == b'S' {
            if by_pax || !block.is_gnu() {
                return Err(self.bad("a sparse file in two formats"));
            }
            return self.old_gnu(block);
        }
        if !by_pax {
            return Ok((stored, None));
        }
        if !regular {
            return Err(self.bad("only a regular file can be sparse"));
        }
        let realsize = pax.realsize.ok_or_else(|| self.bad("a sparse file without its size"))?;
        let map = match (pax.major, pax.minor) {
            (Some(1), Some(0)) if pax.map.is_empty() && pax.blocks.is_none() => self.map_in_data()?,
            (None | Some(0), None | Some(0 | 1)) => {
                if pax.blocks.is_some_and(|blocks| usize::try_from(blocks).ok() != Some(pax.map.len() / 2)) {
                    return Err(self.bad("a sparse file whose map has another length than it says"));
                }
                pax.map.clone()
            }
            _ => return Err(self.bad("an unknown version of sparse files")),
        };
        if !map.len().is_multiple_of(2) {
            return Err(self.bad("a sparse file whose map is cut off"));
        }
        let segments =
            map.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect::<Vec<_>>();
        self.checked(segments, realsize)
    }

    /// Pieces in order, without overlap, within the file, and as long together as the data.
    fn checked(
        &self,
        mut segments: Vec<Segment>,
        realsize: u64,
    ) -> Result<(u64, Option<Vec<Segment>>), LayerError> {
        let mut end = 0u64;
        let mut total = 0u64;
        for segment in &segments {
            let stop = segment.offset.checked_add(segment.length);
            match stop {
                Some(stop) if segment.offset >= end && stop <= realsize => end = stop,
                _ => return Err(self.bad("a sparse file whose pieces overlap or lie outside of it")),
            }
            total += segment.length;
        }
        if total != self.left {
            return Err(self.bad("a sparse file whose pieces are not its data"));
        }
        segments.retain(|segment| segment.length > 0);
        Ok((realsize, Some(segments)))
    }

    fn old_gnu(&mut self, block: &Block) -> Result<(u64, Option<Vec<Segment>>), LayerError> {
        let bad = |what| self.bad(what);
        let realsize =
            u64::try_from(block.number(483..495).map_err(bad)?).map_err(|_| bad("a negative size"))?;
        let (left, padding) = (self.left, self.padding);
        let mut segments = Vec::new();
        let mut more = block.raw[482] != 0;
        let mut ended = self.pieces(&block.raw[386..482], &mut segments)?;
        while more {
            let Some(raw) = self.raw()? else { return Err(LayerError::Truncated { at: self.at }) };
            if ended {
                return Err(self.bad("a sparse file whose map goes on after its end"));
            }
            ended = self.pieces(&raw[..504], &mut segments)?;
            more = raw[504] != 0;
        }
        (self.left, self.padding) = (left, padding);
        self.checked(segments, realsize)
    }

    /// Whether an empty place, which ends the map, was found.
    fn pieces(&self, field: &[u8], to: &mut Vec<Segment>) -> Result<bool, LayerError> {
        for piece in field.chunks_exact(24) {
            if piece[0] == 0 {
                return Ok(true);
            }
            let part = |range: &[u8]| {
                let value = number(range).map_err(|what| self.bad(what))?;
                u64::try_from(value).map_err(|_| self.bad("a negative offset"))
            };
            let segment = Segment { offset: part(&piece[..12])?, length: part(&piece[12..])? };
            if to.len() >= self.limits.max_sparse {
                return Err(self.bad("a sparse file of too many pieces"));
            }
            to.push(segment);
        }
        Ok(false)
    }

    /// Version 1.0: decimal lines, the count first, padded to a block.
    fn map_in_data(&mut self) -> Result<Vec<u64>, LayerError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut line: Vec<u8> = Vec::new();
        let mut wanted: Option<usize> = None;
        loop {
            // A map is always whole blocks, so a block is never data.
            if self.left < 512 {
                return Err(self.bad("a sparse file whose map is cut off"));
            }
            let Some(raw) = self.raw()? else { return Err(LayerError::Truncated { at: self.at }) };
            self.left -= 512;
            for byte in raw {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(self.bad("a sparse file with a malformed map"));
                    }
                    continue;
                }
                let value = decimal(&line).map_err(|what| self.bad(what))?;
                line.clear();
                match wanted {
                    None => {
                        let count =
                            usize::try_from(value).ok().filter(|count| *count <= self.limits.max_sparse);
                        let count = count.ok_or_else(|| self.bad("a sparse file of too many pieces"))?;
                        wanted = Some(count * 2);
                    }
                    Some(_) => numbers.push(value),
                }
                if wanted == Some(numbers.len()) {
                    return Ok(numbers);
                }
            }
        }
    }
}
