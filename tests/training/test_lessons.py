from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.training import lessons
from pyg_nodequant.training.lessons import Lessons, first_items, list_scores
from pyg_nodequant.training.seen import SeenItems

USERS = torch.tensor([3, 77, 110, 4, 119])
SAMPLED = [{"distillation": "ranking"}, {"distillation": "margin"},
           {"distillation": "mse"}, {"distill_items": 20}]


@pytest.fixture
def teacher(data):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(data.num_nodes, 5, generator=generator)


@pytest.fixture
def student(data):
    """Rows of the users above, and of all items, of more columns."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 6, generator=generator), torch.randn(
        data.num_items, 6, generator=generator)


@pytest.fixture
def make(data, teacher):
    def lessons_of(seed=0, on=data, **options):
        return Lessons(teacher, on.without_test(), NodeQuantConfig(**options),
                       seed)

    return lessons_of


def value(lesson, student):
    users, items = student
    items = items if lesson.items is None else items[lesson.items]
    return float(lesson.loss(users, items))


def order(scores):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@pytest.mark.parametrize("users_at_once", [7, 2**16])
def test_first_items(users_at_once, data, teacher, monkeypatch):
    monkeypatch.setattr(lessons, "_USERS", users_at_once)
    users, items = teacher[:120], teacher[120:]
    found = first_items(users, items, count=6)
    left = first_items(users, items, data.csr("train"), count=89)
    assert found.dtype == torch.int32
    assert found.shape == (120, 6) and left.shape == (120, 89)
    indptr, seen = data.csr("train")
    for u in range(120):
        ranked = order((items @ users[u]).tolist())
        assert found[u].tolist() == ranked[:6]
        mine = set(seen[indptr[u]:indptr[u + 1]].tolist())
        ranked = [i for i in ranked if i not in mine][:89]
        assert left[u].tolist() == ranked + [-1] * (89 - len(ranked))


def test_list_scores():
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 3, generator=generator) for n in (2, 4))
    lists = torch.tensor([[3, 0, 3], [1, 1, 2]])
    found = list_scores(users, items, lists)
    for b in range(2):
        for k in range(3):
            assert float(found[b, k]) == pytest.approx(
                float(users[b] @ items[lists[b, k]]), rel=1e-5)


@pytest.mark.parametrize("distill_items", [0, 90, 91, 10**6])
def test_all_items(distill_items, make, teacher, student):
    made = make(distill_items=distill_items, temperature=0.7)
    assert made.lists is None  # nothing is ranked beforehand
    lesson = made.lesson(2, USERS)
    assert lesson.items is None
    expected = F.distillation_loss(*student, teacher[USERS], teacher[120:],
                                   0.7)
    assert value(lesson, student) == float(expected)


def test_a_sample_of_items(make, teacher, student):
    made = make(distill_items=20, temperature=0.7)
    lesson = made.lesson(2, USERS)
    assert lesson.items.tolist() == sorted(set(lesson.items.tolist()))
    assert len(lesson.items) == 20
    # Everyone's two first items, whether trained on or not: at most ten.
    firsts = (teacher[USERS] @ teacher[120:].t()).topk(2).indices
    assert set(firsts.flatten().tolist()) <= set(lesson.items.tolist())
    others = 90 - 10
    in_top, places = set(), made.lists[USERS].t().flatten().tolist()
    for item in places:
        if len(in_top) < 10:
            in_top.add(item)
    weight = torch.tensor([1.0 if i in in_top else others / 10
                           for i in lesson.items.tolist()])
    p, q = (torch.softmax(a @ b[lesson.items].t() / 0.7 + weight.log(), 1)
            for a, b in ((teacher[USERS], teacher[120:]), student))
    expected = 0.49 * (p * (p / q).log()).sum(1).mean()
    assert value(lesson, student) == pytest.approx(float(expected), rel=1e-4)


def test_a_larger_sample_is_closer_to_all_items(make, student):
    whole = value(make().lesson(0, USERS), student)
    errors = []
    for count in (16, 40, 85):
        made = make(distill_items=count)
        found = [value(made.lesson(step, USERS), student)
                 for step in range(40)]
        errors.append(sum(abs(x - whole) for x in found) / 40)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * whole


@pytest.mark.parametrize("name", ["ranking", "margin", "mse"])
def test_pairs(name, make, data, teacher, student):
    made = make(distillation=name)
    lesson = made.lesson(2, USERS)
    needed = set(lesson.items.tolist())
    assert len(needed) == len(lesson.items)
    # The unseen items of each user, best first, and what the others drew.
    users, items = teacher[USERS], teacher[120:]
    indptr, seen = data.csr("train")
    own, own_items = student
    generator = torch.Generator().manual_seed(2**60 + 2)
    random = torch.randint(90, (64, ), generator=generator)
    assert set(random.tolist()) <= needed
    total = 0.0
    for b, u in enumerate(USERS.tolist()):
        t, s = items @ users[b], own_items @ own[b]
        mine = set(seen[indptr[u]:indptr[u + 1]].tolist())
        top = [i for i in order(t.tolist()) if i not in mine][:64]
        assert set(top) <= needed
        if name == "mse":
            both = top + random.tolist()
            total += float((s - t)[both].square().mean())
        elif name == "margin":
            gap = (s[top, None] - s[random]) - (t[top, None] - t[random])
            total += float(gap.square().mean())
        else:
            w = torch.softmax(-torch.arange(1, 65) / 10, 0)[:len(top)]
            loss = -torch.nn.functional.logsigmoid(s[top, None] - s[random])
            loss[t[top, None] <= t[random]] = 0
            total += float((loss.mean(1) * w).sum())
    assert value(lesson, student) == pytest.approx(total / 5, rel=1e-4)


@pytest.mark.parametrize("options", SAMPLED)
def test_lessons_are_a_function_of_seed_and_step(options, make, student):
    made = make(**options)
    first, second = made.lesson(4, USERS), made.lesson(5, USERS)
    torch.manual_seed(9)
    again = make(**options).lesson(4, USERS)
    assert torch.equal(first.items, again.items)
    assert value(first, student) == value(again, student)
    assert value(first, student) != value(second, student)
    other = make(seed=1, **options).lesson(4, USERS)
    assert value(first, student) != value(other, student)


@pytest.mark.parametrize("options", SAMPLED)
def test_gradients_reach_student_rows_alone(options, make, teacher, student):
    lesson = make(**options).lesson(0, USERS)
    users, items = student[0].requires_grad_(), student[1][lesson.items]
    items.requires_grad_()
    teacher.requires_grad_()
    lesson.loss(users, items).backward()
    assert bool((users.grad.abs().sum(1) > 0).all())
    assert float(items.grad.abs().sum()) > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", ["ranking", "margin", "mse"])
def test_users_who_know_everything(name, make, data, student):
    edges = torch.cartesian_prod(torch.tensor([3]), torch.arange(90)).t()
    rest = data.train[:, data.train[0] != 3]
    train = torch.cat([edges, rest], 1)
    train = train[:, (train[0] * 90 + train[1]).argsort()]
    none = data.val[:, :0]
    full = replace(data, train=train, val=none, test=none)
    made = make(distillation=name, on=full)
    assert made.lists[3].tolist() == [-1] * 64
    alone = value(made.lesson(0, USERS[:1]), (student[0][:1], student[1]))
    if name == "mse":  # of the random items
        assert alone > 0
    else:
        assert alone == 0


@pytest.mark.parametrize("count", [0, 40, 10_000])
@pytest.mark.parametrize("keep", [False, True])
def test_seen_items_count_in_a_softmax_only_if_asked(data, teacher, count,
                                                     keep):
    quant = NodeQuantConfig(distill_items=count, distill_seen=keep)
    seen = SeenItems(data.train, data.num_users)
    made = Lessons(teacher, data, quant, 0, None if keep else seen.pairs)
    users = torch.tensor([3])
    lesson = made.lesson(5, users)
    own = torch.randn(data.num_nodes, 4,
                      generator=torch.Generator().manual_seed(2))
    rows = own[data.num_users:]
    changed = rows.clone()
    changed[seen.pairs(users)[1]] += 3.0
    first, second = (
        float(lesson.loss(own[users], x if lesson.items is None
                          else x[lesson.items])) for x in (rows, changed))
    assert (first == pytest.approx(second, rel=1e-5)) is not keep
