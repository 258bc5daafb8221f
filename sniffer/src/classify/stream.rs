//! The beginning of one direction of a TCP connection, put together of its segments.

/// The beginning of what one side sent. Segments may come late, twice, or overlap.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The sequence number of the first byte, once one was seen.
    first: Option<u32>,
    bytes: Vec<u8>,
    /// What came before what precedes it, by its place.
    early: Vec<(u32, Vec<u8>)>,
}

impl Stream {
    /// Takes a segment.
    pub fn add(&mut self, sequence: u32, payload: &[u8], most: usize) {
        let first = *self.first.get_or_insert(sequence);
        let place = sequence.wrapping_sub(first);
        // One from before the first that was seen: that one was early.
        if place > u32::MAX / 2 {
            let shift = first.wrapping_sub(sequence);
            if shift as usize > most || self.early.len() >= EARLY_MAX {
                return;
            }
            let bytes = std::mem::take(&mut self.bytes);
            self.early.iter_mut().for_each(|(place, _)| *place = place.saturating_add(shift));
            self.early.push((shift, bytes));
            self.first = Some(sequence);
            self.append(0, payload, most);
        } else if place as usize > self.bytes.len() {
            if (place as usize) < most && self.early.len() < EARLY_MAX {
                self.early.push((place, payload[..payload.len().min(most)].to_vec()));
            }
            return;
        } else {
            self.append(place, payload, most);
        }
        while let Some(next) = self.early.iter().position(|(place, _)| *place as usize <= self.bytes.len()) {
            let (place, bytes) = self.early.swap_remove(next);
            self.append(place, &bytes, most);
        }
    }

    fn append(&mut self, place: u32, payload: &[u8], most: usize) {
        let known = self.bytes.len().saturating_sub(place as usize);
        let room = most.saturating_sub(self.bytes.len());
        if let Some(new) = payload.get(known..) {
            self.bytes.extend_from_slice(&new[..new.len().min(room)]);
        }
    }

    /// Bytes of memory besides itself.
    pub fn allocated(&self) -> usize {
        let early: usize = self.early.iter().map(|(_, bytes)| bytes.capacity()).sum();
        self.bytes.capacity() + early + self.early.capacity() * size_of::<(u32, Vec<u8>)>()
    }

    /// What is there without a gap.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Most segments that wait for one before them.
const EARLY_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_in_any_order_twice_and_overlapping_make_one_text() {
        let text = b"the quick brown fox";
        let pieces = [(0, 4), (4, 9), (8, 15), (10, 19)];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 1, 0, 2]] {
            for base in [7_u32, u32::MAX - 5] {
                let mut stream = Stream::default();
                for piece in order.into_iter().chain(0..4) {
                    let (from, to) = pieces[piece];
                    stream.add(base.wrapping_add(from as u32), &text[from..to], 100);
                }
                assert_eq!(stream.bytes(), text, "{order:?} {base}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut stream = Stream::default();
        for number in 0..1000_u32 {
            stream.add(number.wrapping_mul(77_777), &[1; 1000], 4096);
        }
        assert!(stream.bytes().len() <= 4096 && stream.early.len() <= EARLY_MAX);
        assert!(stream.early.iter().all(|(_, bytes)| bytes.len() <= 4096));
    }
}
