//! Where a relay is, from round trips that edges measured to it.

use crate::coordinate::Coordinate;

/// One edge's place and its round trip to the relay, in milliseconds.
pub(super) type Ring = (Coordinate, f64);

/// Steps of the descent; it has settled long before.
const STEPS: u32 = 240;

/// The place whose distances to the edges fit best, found by pulling a point at each edge in turn as
/// [`Vivaldi`](crate::coordinate::Vivaldi) does, near edges weighing more: an error is a share of the round trip,
/// so a near one says more about where the relay is. `None` for fewer than two rings, which say nothing of a direction.
pub(super) fn locate(rings: &[Ring]) -> Option<Coordinate> {
    let nearest = rings.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    if rings.len() < 2 {
        return None;
    }
    let starts = rings.iter().filter(|ring| ring.1 <= nearest.1 * 2.0 + 5.0).take(3);
    let found = starts.map(|start| descend(rings, start, nearest.1));
    let (at, misfit) = found.min_by(|a, b| a.1.total_cmp(&b.1))?;
    Coordinate::new(at.position, at.height, misfit.min(1.0) as f32)
}

/// From beside `start`, with the mean misfit as a share of the round trip.
fn descend(rings: &[Ring], start: &Ring, shortest: f64) -> (Coordinate, f64) {
    let mut at = Coordinate { height: 0.5, ..start.0 };
    // Off the edge, or there is no direction to leave it in; not along one axis, or the descent stays in that plane.
    let offset = (start.1 / 4.0).clamp(0.5, 20.0) as f32;
    (0..3).for_each(|i| at.position[i] += offset * [1.0, 0.6, -0.4][i]);
    for step in 0..STEPS {
        let gain = 0.5 * (1.0 - f64::from(step) / f64::from(STEPS)) + 0.02;
        for (edge, rtt) in rings {
            pull(&mut at, edge, *rtt, gain * weight(*rtt, shortest));
        }
    }
    let total: f64 = rings.iter().map(|(_, rtt)| weight(*rtt, shortest)).sum();
    let misfit = |(edge, rtt): &Ring| weight(*rtt, shortest) * (at.rtt_ms(edge) - rtt).abs() / rtt.max(1.0);
    (at, rings.iter().map(misfit).sum::<f64>() / total.max(1e-9))
}

fn weight(rtt: f64, shortest: f64) -> f64 {
    ((shortest + 5.0) / (rtt + 5.0)).clamp(0.02, 1.0)
}

fn pull(at: &mut Coordinate, edge: &Coordinate, rtt: f64, gain: f64) {
    let away: [f64; 3] = std::array::from_fn(|i| f64::from(at.position[i]) - f64::from(edge.position[i]));
    let apart = away.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-3);
    let total = apart + f64::from(at.height) + f64::from(edge.height);
    let force = gain * (rtt - total);
    (0..3).for_each(|i| at.position[i] += (away[i] / total * force) as f32);
    at.height = (at.height + (force * f64::from(at.height + edge.height) / total) as f32).clamp(0.05, 200.0);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn at(x: f32, y: f32, z: f32) -> Coordinate {
        Coordinate::new([x, y, z], 1.0, 0.05).unwrap()
    }

    #[test]
    fn a_relay_is_found_where_the_rings_meet() {
        let edges =
            [at(0.0, 0.0, 0.0), at(100.0, 0.0, 10.0), at(0.0, 100.0, 5.0), at(50.0, 50.0, 80.0), at(120.0, 90.0, 0.0)];
        let relay = at(30.0, 70.0, 12.0);
        let rings: Vec<Ring> = edges.iter().map(|edge| (*edge, edge.rtt_ms(&relay))).collect();
        let found = locate(&rings).unwrap();
        let apart = found.rtt_ms(&relay);
        assert!(apart < 12.0 && found.error < 0.1, "{found:?}");
    }

    #[test]
    fn one_ring_is_no_place() {
        assert_eq!(locate(&[]), None);
        assert_eq!(locate(&[(at(0.0, 0.0, 0.0), 5.0)]), None);
    }

    proptest! {
        #[test]
        fn any_rings_give_a_place_or_none(
            rings in prop::collection::vec((prop::array::uniform3(-4000f32..4000.0), 0f32..4000.0, 0f64..4000.0), 0..20),
        ) {
            let rings: Vec<Ring> =
                rings.into_iter().map(|(p, height, rtt)| (Coordinate::new(p, height, 0.1).unwrap(), rtt)).collect();
            if let Some(found) = locate(&rings) {
                prop_assert!(found.is_sane());
            }
        }
    }
}
