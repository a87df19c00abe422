from r1lab.metric.pareto import pareto_front


def test_hand_worked():
    # Score up, cost down: (.5, 9) loses to (.6, 5); (.9, 20) and (.3, 1) are each best in something; equals stay both.
    values = [(0.5, 9), (0.6, 5), (0.9, 20), (0.3, 1), (0.6, 5), (0.6, 6)]
    assert pareto_front(values, [True, False]) == [1, 2, 3, 4]
    assert pareto_front(values, [True, True]) == [2]
    assert pareto_front([], [True, False]) == []
