"""The next place of a city's people, as a table of forecasts."""

import numpy as np
import pandas as pd

from ..data.city import City
from .forecast import Answer, extended
from .forecast_table import to_table
from .next_place import MINUTES_A_DAY, Crowd, Question, network_for, visits_of_city


def next_of_city(city: City, top_k: int = 10, fitted: bool = False) -> pd.DataFrame:
    """The table of `forecast` for the slot after each person's last known record: `top_k` ranked places.

    With `fitted` a network is trained on these people's records first. Raises ValueError if nobody has a known one.
    """
    people = visits_of_city(city, city.calendar.last_day + 1)
    crowd, calendar = Crowd(people), extended(city.calendar, city.calendar.last_day + 1)
    network = network_for(people, crowd, fitted)
    slots, answers = calendar.num_slots, []
    for row, past in enumerate(people):
        if not len(past):
            continue
        person = city.trajectory(row)
        known = np.flatnonzero(person.cell != city.grid.mask_id)[-1]
        after = int(person.day[known]) * slots + int(person.slot[known]) + 1
        day, slot = np.array([after // slots]), np.array([after % slots])
        question = Question(past, int(slot[0]) * MINUTES_A_DAY // slots, int(calendar.weekday(day)[0]), row)
        places, probability = (values[None, :top_k] for values in network.ranked(question, crowd))
        answers.append(Answer(int(city.uids[row]), day, slot, places, probability))
    if not answers:
        raise ValueError("nobody has a known record, so nothing can be said of what is next")
    return to_table(answers, city, calendar)
