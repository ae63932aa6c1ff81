"""Maps of pictures: where a text is, what belongs together, what has changed, what was learnt."""

from amodal.maps.draw import map_records as map_records
from amodal.maps.region_texts import RegionTexts as RegionTexts
from amodal.maps.result import Maps as Maps
