//! Which flows a sample takes: by their ids alone, so all sniffers everywhere take the same ones.

use flow::tuple::FlowKey;

/// Whether a sample of one flow in `sample` takes this one: its 5-tuple's id, which everybody can tell who knows its Community
/// ID, is divisible by `sample`. It costs a SHA-1 for each packet of which nothing is kept.
#[must_use]
pub fn takes(key: &FlowKey, sample: u32) -> bool {
    sample <= 1 || key.id().is_multiple_of(sample.into())
}

#[cfg(test)]
mod tests {
    use flow::tuple::{Endpoint, id_of_community};

    use super::*;

    #[test]
    fn who_knows_the_community_id_knows_what_is_taken() {
        let mut taken = 0;
        for port in 1000..1400 {
            let (version, source) = Endpoint::new("192.0.2.9".parse().unwrap(), port);
            let (_, destination) = Endpoint::new("198.51.100.1".parse().unwrap(), 443);
            let (there, _) = FlowKey::of(version, 6, source, destination);
            let (back, _) = FlowKey::of(version, 6, destination, source);
            let id = id_of_community(&there.community_id()).unwrap();
            assert_eq!((takes(&there, 8), takes(&back, 8)), (id % 8 == 0, id % 8 == 0));
            assert!(takes(&there, 1) && takes(&there, 0), "no sample");
            taken += u32::from(takes(&there, 8));
        }
        assert!((25..=75).contains(&taken), "about one in eight of 400: {taken}");
    }
}
