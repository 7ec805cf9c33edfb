"""A calendar of each person's own: whole weeks, true weekdays, and the way back to real dates."""

import numpy as np
import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.city import open_city
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.geography import locate
from stmoe_hf.data.gps import points_to_city


def person(name, first, days, hour=6):
    """A point a day, in the cell of the weekday."""
    times = pd.date_range(f"{first} {hour:02}:00", periods=days, tz="Europe/Berlin")
    lat = 52.4 + times.day_of_week * 0.01
    return pd.DataFrame({"uid": name, "lat": lat, "lng": 13.4, "datetime": times.tz_convert("UTC")})


@pytest.fixture
def table():
    return pd.concat(
        [person("ann", "2007-03-05", 40), person("bob", "2012-10-03", 100), person("cid", "2009-01-01", 5)]
    )


def test_everybody_stays_with_true_weekdays_and_all_end_in_one_week(table):
    city = points_to_city(table, timezone="Europe/Berlin", align="person")
    calendar = city.description.calendar
    assert city.users["user"].tolist() == ["ann", "bob", "cid"] and len(city.records) == 145
    last = city.records.groupby("uid")["d"].max()
    assert (last > calendar.last_day - 7).all() and last.max() == calendar.last_day
    located = locate(city.records.merge(city.users), city.description.place, city.description.grid, calendar)
    # The cell tells the true weekday, the time the true date; in summer and in winter the clock says 6.
    place, grid = city.description.place, city.description.grid
    _, y = place.to_xy(52.4 + calendar.weekday(city.records["d"]) * 0.01, np.full(len(located), 13.4), grid)
    assert np.array_equal(y, city.records["y"])
    true = table.sort_values(["uid", "datetime"])["datetime"].dt.tz_convert("Europe/Berlin")
    assert located["time"].tolist() == true.tolist()
    assert (city.records["t"] == 12).all()


def test_without_the_users_first_dates_there_are_no_dates(table):
    city = points_to_city(table, timezone="Europe/Berlin", align="person")
    with pytest.raises(DataError, match=r"a calendar of their own, whose first date is in users.csv"):
        locate(city.records, city.description.place, city.description.grid, city.description.calendar)


def test_so_many_days_are_the_last_of_each(table):
    city = points_to_city(table, timezone="Europe/Berlin", align="person", num_days=28)
    counts = city.records.groupby("uid").size()
    assert city.description.calendar.num_days == 28 and counts[2] == 5 and (counts[:2] > 21).all()


def test_holidays_are_those_of_each_persons_own_year(table):
    city = points_to_city(table, timezone="Europe/Berlin", align="person", holidays=("2007-04-06", "2012-12-25"))
    assert city.description.calendar.holidays == ()
    days = {user: days.split() for user, days in zip(city.users["user"], city.users["holidays"], strict=True)}
    first = dict(zip(city.users["user"], pd.to_datetime(city.users["first_date"]), strict=True))
    assert [first["ann"] + pd.Timedelta(days=int(d)) for d in days["ann"]] == [pd.Timestamp("2007-04-06")]
    assert [first["bob"] + pd.Timedelta(days=int(d)) for d in days["bob"]] == [pd.Timestamp("2012-12-25")]
    assert days["cid"] == []


def test_a_stray_time_of_a_person_is_dropped_and_named(table):
    stray = pd.concat([table, person("bob", "1970-01-01", 2)], ignore_index=True)
    city = points_to_city(stray, timezone="Europe/Berlin", align="person")
    assert city.counts["outliers in time"] == 2 and city.description.calendar.num_days < 110
    assert "the date is 1970-01-01; row" in city.said[0]


def test_what_cannot_be_aligned_is_refused(table):
    with pytest.raises(DataError, match="leave first_date out"):
        points_to_city(table, timezone="Europe/Berlin", align="person", first_date="2012-10-03")
    with pytest.raises(DataError, match="align is 'city'"):
        points_to_city(table, timezone="Europe/Berlin", align="city")
    with pytest.raises(DataError, match="all points are of one day"):
        points_to_city(table[:1], timezone="Europe/Berlin", align="person")


def test_the_command_writes_an_aligned_city_that_opens_and_goes_back_to_dates(table, tmp_path):
    table.to_csv(tmp_path / "points.csv", index=False)
    options = ["--points", str(tmp_path / "points.csv"), "--timezone", "Europe/Berlin", "--align", "person"]
    assert main(["gps", *options, "--output_dir", str(tmp_path / "city")]) == 0
    city = open_city(path=tmp_path / "city", cache_dir=tmp_path / "cache")
    assert city.place.aligned and len(city) == 3
    options = ["--records", str(tmp_path / "city" / "records.parquet"), "--data", str(tmp_path / "city")]
    assert main(["locate", *options, "--output", str(tmp_path / "out.csv")]) == 0
    years = pd.read_csv(tmp_path / "out.csv").groupby("user")["time"].agg(lambda times: times.iloc[0][:4])
    assert years.to_dict() == {"ann": "2007", "bob": "2012", "cid": "2009"}


def test_geolife_keeps_everyone_with_most_of_their_records(shared):
    from stmoe_hf.data.points import read_points

    file = shared / "gps" / "beijing_points.csv.gz"
    if not file.is_file():
        pytest.skip("the GPS points are missing")
    city = points_to_city(read_points(file), timezone="Asia/Shanghai", align="person")
    assert len(city.users) == 46
    assert city.counts["outliers in time"] == 2 and city.counts["outside the days"] == 0
