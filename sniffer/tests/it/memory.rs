//! What a flow takes of memory, counted where it is asked for.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::Ipv4Addr,
};

use sniffer::{
    decode::{Link, decode},
    track::{Config, Tracker},
};

use crate::wires::{at, ip, tcp};

/// Counts what each thread holds, as tests run beside each other.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: all is left to the system's allocator; the count touches no memory that is allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The worst is just after the index has grown; what classification remembers has a bound of its own.
#[test]
fn a_flow_takes_at_most_160_bytes() {
    let before = HELD.get();
    let mut tracker = Tracker::new(Config { flows_max: 400_000, ..Config::default() });
    let mut most = 0;
    for flow in 0..400_000_u32 {
        let client = Ipv4Addr::from(0x0a00_0000 | flow).into();
        let packet = ip(6, client, at("198.51.100.1"), 0, &tcp(50_000, 443, 1, 2, b""));
        tracker.handle_packet(1_700_000_000_000_000, 60, &decode(Link::Raw, &packet).unwrap());
        drop(packet);
        if flow >= 10_000 && flow % 1000 == 0 {
            most = most.max((HELD.get() - before) as usize / tracker.len());
        }
    }
    assert_eq!(tracker.len(), 400_000);
    let now = (HELD.get() - before) as usize / tracker.len();
    println!("{now} bytes a flow at 400000, at most {most} from 10000 on");
    assert!((128..=160).contains(&most), "{most}");
}
