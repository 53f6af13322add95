"""What tools are about, in English and both Chinese scripts: (domain, words). Data only.

A word counts twice over: in the names and descriptions of the tools offered, and in the message. A domain that is in
both is a sign that the message wants that tool. The notation is in `words/__init__.py`.
"""

from __future__ import annotations

from typing import Final

DOMAINS: Final[tuple[tuple[str, str], ...]] = (
    (
        "weather",
        """
        weather, forecast, rain, raining, rainy, umbrella, sunny, snow, snowing, temperature, degrees, wind, windy,
        humid, humidity, storm, warm enough, cold enough, how cold, how hot, how warm, jacket, aqi, air quality,
        pollen, uv index, 天氣/天气, 預報/预报, 下雨, 會雨/会雨, 有雨, 降雨, 帶傘/带伞, 雨傘/雨伞, 氣溫/气温,
        溫度/温度, 幾度/几度, 颱風/台风, 下雪, 冷不冷, 熱不熱/热不热, 空氣品質/空气品质, 空气質量/空气质量,
        紫外線/紫外线, 太陽/太阳, 放晴, 穿外套
        """,
    ),
    (
        "calendar",
        """
        calendar, event, events, meeting, meetings, appointment*, schedule, reschedule, book a slot, free slot,
        availability, agenda, invite, standup, my day, am i free, reminder, remind me, remind, todo, to do list, task,
        tasks, dentist, block out, postpone, move my, push my, cancel my, call with, slot, 行事曆/行事历, 日曆/日历,
        日程, 行程, 會議/会议, 開會/开会, 開個會/开个会, 約/约, 預約/预约, 提醒, 有空, 空檔/空档, 待辦/待办, 挪,
        延後/延后, 改到, 取消, 排到, 排一個/排一个, 排個/排个, 那場會/那场会, 的會/的会, 幾點/几点
        """,
    ),
    (
        "mail",
        """
        email, emails, e mail, mail, inbox, send, reply, forward, message, messages, sms, text him, text her,
        text them, notify, slack, whatsapp, telegram, channel, ^tell, ^text, ^ping, minutes late, running late,
        be late, tell him, tell her, let them know, let her know, let him know, attach, unread, drop a line, cc,
        郵件/邮件, 電郵/电邮, 寄信, 寄給/寄给, 發給/发给, 發郵件/发邮件, 發封/发封, 寄封, 回信, 回覆/回复, 簡訊/简讯,
        短信, 訊息/消息, 通知, 傳給/传给, 傳訊/传讯, 轉寄/转寄, 轉發/转发, 告訴他/告诉他, 告訴她/告诉她, 跟他說/跟他说,
        跟她說/跟她说, 收件匣, 收件箱, 未讀/未读, 微信, 說一聲/说一声, 跟他, 跟她, 幫我跟/帮我跟, 告訴/告诉, 跟
        """,
    ),
    (
        "files",
        """
        file, files, process, processes, port, kill, box, machine, ram, cpu, disk, installed, running, uptime, restart,
        folder, directory, workspace, repo, repository, project, shell, command, terminal, run, execute, test suite,
        the tests, tests, failing, build, codebase, code base, grep, rename, delete the, move the, readme, config, log,
        logs, branch, commit, git, lint, script, py, js, ts, tsx, jsx, json, yml, yaml, toml, csv, txt, md, xlsx, pdf,
        docx, html, css, sql, env, conf, cfg, ini, sh, go, rs, java, vue, ipynb, package json, src, makefile,
        dockerfile, line 00, disk space, document, documents, upload, uploaded, attached, drive, 檔案/档案, 文件,
        資料夾/资料夹, 文件夾/文件夹, 目錄/目录, 專案/专案, 項目/项目, 工作區/工作区, 執行/运行, 跑一下, 跑一遍,
        跑測試/跑测试, 測試/测试, 改名, 刪掉/删掉, 讀出來/读出来, 讀取/读取, 打開/打开, 上傳的/上传的, 附件,
        設定檔/设定档, 日誌/日志, 根目錄/根目录, 磁碟, 磁盤/磁盘, 硬碟, 代碼庫/代码库, 終端/终端, 寫入/写入, 文檔/文档
        """,
    ),
    (
        "search",
        """
        web, search the web, web search, internet, browser, browse, google, news, online, look up, look it up, latest,
        website, url, http*, www, page, article, headlines, who won, score, results, release date, announced, released,
        out yet, been announced, open today, opening hours, closing time, reviews of, price of, find me, find out,
        search for, 搜尋網/搜索网, 網路/网络, 網頁/网页, 上網/上网, 查一下, 查查, 搜一下, 幫我查/帮我查, 搜尋/搜索,
        新聞/新闻, 最新, 官網/官网, 開獎/开奖, 開幾號/开几号, 比分, 賽果/赛果, 營業時間/营业时间, 網址/网址, 連結/链接,
        熱搜/热搜, 現在多少/现在多少, 公布了, 票房
        """,
    ),
    (
        "home",
        """
        light, lights, lamp, dim, brightness, switch, switch on, switch off, turn on, turn off, turn the, turn up,
        turn down, thermostat, heating, freezing, too hot, too cold, too dark, too bright, stuffy, appliance*, device*,
        smart home, blinds, curtain*, shutters, ac, air conditioning, fan, plug, vacuum, robot vacuum, oven, tv,
        garage, door, doors, lock, unlock, alarm, arm the, disarm, camera, bedroom, living room, kitchen light*,
        hallway, 燈/灯, 燈光/灯光, 家電/家电, 開燈/开灯, 關燈/关灯, 關掉/关掉, 打開/打开, 調亮/调亮, 調暗/调暗,
        調到/调到, 開一下/开一下, 關一下/关一下, 冷氣/空调, 暖氣/暖气, 窗簾/窗帘, 拉起來/拉起来, 拉上, 插座, 電視/电视,
        電扇/风扇, 掃地機/扫地机, 掃地/扫地, 門鎖/门锁, 鎖門/锁门, 客廳/客厅, 臥室/卧室, 主臥/主卧, 書房/书房,
        廚房/厨房, 智慧家/智能家居
        """,
    ),
    (
        "timer",
        """
        timer, alarm, alarms, wake me, wake up, stopwatch, countdown, minutes from now, in 00 minutes, in 0 minutes,
        set a, set an, snooze, 計時/计时, 鬧鐘/闹钟, 定時/定时, 倒數/倒数, 倒計時/倒计时, 叫我起床, 叫我,
        分鐘後/分钟后, 小時後/小时后
        """,
    ),
    (
        "music",
        """
        music, song, songs, play, playlist, album, artist, track, skip, volume, louder, pause, spotify, podcast, radio,
        jazz, something calm, put on, 音樂/音乐, 播放, 放首, 放一首, 放點/放点, 來點/来点, 歌, 歌單/歌单, 歌手, 下一首,
        音量, 大聲/大声, 小聲點/小声点, 暫停/暂停, 電台/电台, 專輯/专辑
        """,
    ),
    (
        "travel",
        """
        way to get from, get from, get to, from here, flight, flights, fly, flying, airline, train, trains, bus,
        ticket, tickets, hotel, hotels, room, booking, trip, one way, round trip, return ticket, depart*, departure,
        arrival, nonstop, layover, check in, seat, route, directions, how far, how long to, traffic, navigate,
        navigation, maps, map, distance, nearest, nearby, near me, taxi, uber, ride, car rental, 從/从, 飛機/飞机,
        航班, 機票/机票, 飛/飞, 班機/班机, 火車/火车, 高鐵/高铁, 動車/动车, 車票/车票, 車次/车次, 訂票/订票, 訂房/订房,
        飯店/饭店, 酒店, 住宿, 單程/单程, 來回/往返, 托運/托运, 轉機/转机, 直飛/直飞, 出發/出发, 路線/路线, 導航/导航,
        地圖/地图, 怎麼去/怎么去, 最近的, 附近, 距離/距离, 塞車/堵车, 叫車/打车, 計程車/计程车
        """,
    ),
    (
        "booking",
        """
        restaurant*, table, table for, reserve, reservation*, book, dinner for, party of, order, delivery, pizza, menu,
        vegan, 餐廳/餐厅, 包間/包间, 個人/个人, 川菜, 吃, 位, 訂位/订位, 訂座/订座, 預訂/预订, 位子, 座位, 幾位/几位,
        外送, 外賣/外卖, 點餐/点餐, 訂一桌/订一桌, 訂個/订个, 包廂/包厢
        """,
    ),
    (
        "parcel",
        """
        parcel*, package, packages, shipment*, shipping, track, tracking, order, orders, order status, delivery,
        delivered, courier, invoice, invoices, refund, return, customer, customers, ticket, crm, account, subscription,
        where is my, status of, 包裹, 快遞/快递, 物流, 配送, 訂單/订单, 貨/货, 到哪, 單號/单号, 寄到, 發票/发票, 退款,
        退貨/退货, 客戶/客户, 會員/会员, 進度/进度, 宅配
        """,
    ),
    (
        "stock",
        """
        inventory, stock, in stock, availability, product, products, store, warehouse, sku, size, item, items, shop,
        catalogue, catalog, cart, add to cart, 幾件/几件, 幾雙/几双, 剩, 尺碼/尺码, 還有/还有, 庫存/库存, 商品,
        有貨/有货, 現貨/现货, 門市/门店, 缺貨/缺货, 還有嗎/还有吗, 購物車/购物车, 加購/加购, 下單/下单, 尺寸,
        倉庫/仓库
        """,
    ),
    (
        "finance",
        """
        stock price, share, shares, share price, ticker, trading at, exchange rate, rupees, bucks, zloty, krona,
        kronor, kroner, francs, pesos, pounds, sterling, dirham, baht, ringgit, lira, currency, currencies, convert,
        usd, eur, gbp, jpy, dollars, euros, yen, bitcoin, btc, crypto, balance, transfer, pay, payment, bank,
        transaction*, statement, 股價/股价, 股票, 收盤/收盘, 匯率/汇率, 換匯/换汇, 換/换, 貨幣/货币, 美金, 美元,
        日幣/日币, 日元, 日圓/日圆, 歐元/欧元, 台幣/台币, 人民幣/人民币, 港幣/港币, 英鎊/英镑, 比特幣/比特币,
        餘額/余额, 轉帳/转账, 付款, 帳戶/账户, 匯款/汇款, 基金, 多少日圓/多少日元
        """,
    ),
    (
        "image",
        """
        image, images, picture, pictures, photo, draw, drawing, paint, sketch, illustration, logo, generate an image,
        render, wallpaper, icon, avatar, 圖片/图片, 圖像/图像, 畫/画, 畫一張/画一张, 生成圖/生成图, 插圖/插图, 照片,
        生圖/生图, 頭像/头像, 海報/海报, 產圖/产图
        """,
    ),
    (
        "data",
        """
        database, query, customers, customer, orders, ordered, signups, users, subscribers, q0, quarter, by region,
        per region, by country, by month, last month, last week, last quarter, churned, top 00, top 0, conversion,
        margin, headcount, sql, table, rows, records, dashboard, metrics, analytics, report, sales, revenue, employees,
        employee, contacts, contact, directory of, phone number, calculator, calculate, python, compute,
        translate text, notes, note, save, store, knowledge base, docs, wiki, 客戶數/客户数, 訂單數/订单数, 營收/营收,
        上個月/上个月, 上週/上周, 上季, 用戶/用户, 活躍/活跃, 轉換率/转化率, 資料庫/数据库, 查詢資料/查询数据,
        報表/报表, 銷售/销售, 業績/业绩, 聯絡人/联络人, 聯系人/联系人, 電話/电话, 員工/员工, 通訊錄/通讯录, 筆記/笔记,
        記一下/记一下, 記下來/记下来, 計算機/计算器, 知識庫/知识库
        """,
    ),
    (
        "sensor",
        """
        sensor, battery, status, server, servers, cpu, memory usage, uptime, deploy, deployment, pod, pods, restart,
        service, health, steps, heart rate, location, gps, position, 感測/传感, 電量/电量, 狀態/状态, 伺服器/服务器,
        重啟/重启, 部署, 心率, 步數/步数, 位置, 定位
        """,
    ),
)
